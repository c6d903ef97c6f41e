//! Rows in the text format of COPY.

use std::io::{self, Write};

/// Makes rows one after the other, in one buffer. No value that is put in needs escaping: none has a tab, a line end or a backslash.
#[derive(Debug, Default)]
pub(crate) struct Row {
    buffer: Vec<u8>,
}

impl Row {
    /// Begins the next column.
    fn column(&mut self) -> &mut Vec<u8> {
        if !self.buffer.is_empty() {
            self.buffer.push(b'\t');
        }
        &mut self.buffer
    }

    pub(crate) fn text(&mut self, parts: &[&str]) -> &mut Self {
        let buffer = self.column();
        for part in parts {
            buffer.extend_from_slice(part.as_bytes());
        }
        self
    }

    /// Adds words from `words` to the column, a space between them.
    pub(crate) fn sentence<'a>(&mut self, words: impl Iterator<Item = &'a str>) -> &mut Self {
        let buffer = self.column();
        for (index, word) in words.enumerate() {
            if index > 0 {
                buffer.push(b' ');
            }
            buffer.extend_from_slice(word.as_bytes());
        }
        self
    }

    pub(crate) fn null(&mut self) -> &mut Self {
        self.text(&["\\N"])
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        digits(self.column(), number, 1);
        self
    }

    /// Appends a number to the column as it is so far, with leading zeros up to `width`.
    pub(crate) fn and_number(&mut self, number: u64, width: usize) -> &mut Self {
        digits(&mut self.buffer, number, width);
        self
    }

    /// Appends text to the column as it is so far.
    pub(crate) fn and(&mut self, text: &str) -> &mut Self {
        self.buffer.extend_from_slice(text.as_bytes());
        self
    }

    /// Adds a date, given in seconds since 1970.
    pub(crate) fn date(&mut self, seconds: u64) -> &mut Self {
        day(self.column(), seconds / 86_400);
        self
    }

    /// Adds a moment, given in seconds since 1970.
    pub(crate) fn moment(&mut self, seconds: u64) -> &mut Self {
        let buffer = self.column();
        day(buffer, seconds / 86_400);
        let second = seconds % 86_400;
        for (mark, part) in [(b' ', second / 3600), (b':', second / 60 % 60), (b':', second % 60)] {
            buffer.push(mark);
            digits(buffer, part, 2);
        }
        buffer.extend_from_slice(b"+00");
        self
    }

    /// Writes the row, and begins the next.
    pub(crate) fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.buffer.push(b'\n');
        out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Appends a number with at least `width` digits.
fn digits(buffer: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut text = [b'0'; 20];
    let mut start = text.len();
    while number > 0 {
        start -= 1;
        text[start] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
    buffer.extend_from_slice(&text[start.min(text.len() - width)..]);
}

/// Appends the date of a day, counted from 1970-01-01.
fn day(buffer: &mut Vec<u8>, days: u64) {
    // Years that begin in March have their leap day last (Howard Hinnant's algorithm).
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    digits(buffer, year, 4);
    buffer.push(b'-');
    digits(buffer, month, 2);
    buffer.push(b'-');
    digits(buffer, of_year - (153 * shifted + 2) / 5 + 1, 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_copy_reads_them() {
        let mut out = Vec::new();
        let mut row = Row::default();
        row.number(0)
            .text(&["a", "b"])
            .null()
            .and("")
            .number(1_234_567)
            .and_number(7, 3)
            .sentence(["x", "y"].into_iter());
        row.end(&mut out).unwrap();
        row.date(0).moment(1_709_251_199).date(1_709_251_200).moment(951_782_400);
        row.end(&mut out).unwrap();
        let expected =
            "0\tab\t\\N\t1234567007\tx y\n1970-01-01\t2024-02-29 23:59:59+00\t2024-03-01\t2000-02-29 00:00:00+00\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
