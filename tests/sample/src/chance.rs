//! Chance that is the same every time.

/// A source of pseudo-random numbers (SplitMix64): small, fast, and one can be had for every row, so that any row can be made by itself.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Makes the source for row `index` of whatever `stream` stands for.
    pub(crate) fn of(stream: u64, index: u64) -> Self {
        let mut chance = Self(stream.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ index.wrapping_mul(0xa076_1d64_78bd_642f));
        // Neighbouring rows begin far apart.
        chance.0 = chance.next();
        chance
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`, which is not 0, all equally likely.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Returns a number below `n`, which is not 0, the low ones far likelier, as with what sells and with who buys.
    pub(crate) fn skewed(&mut self, n: u64) -> u64 {
        let limit = self.below(n) + 1;
        self.below(limit)
    }

    /// Tells whether something that happens `percent` times in a hundred happens.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Chooses one of `all`, which is not empty.
    pub(crate) fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        let index = self.below(all.len() as u64);
        all[usize::try_from(index).unwrap_or_default()]
    }
}
