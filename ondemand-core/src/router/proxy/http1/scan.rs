//! Finding the end of a head.

/// Looks for the empty line that ends a head, and sees to it that every line ends as it must: a line feed without a carriage
/// return ends a line for some and not for others, and that is how requests are smuggled.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scanner {
    scanned: usize,
    line: usize,
}

/// A line feed without a carriage return before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BareLineFeed;

impl Scanner {
    /// Returns where the head ends, the empty line included; none if it is not all there. To be called again with the same data
    /// and more.
    pub(crate) fn scan(&mut self, data: &[u8]) -> Result<Option<usize>, BareLineFeed> {
        let from = self.scanned;
        for at in memchr::memchr_iter(b'\n', &data[from..]).map(|at| from + at) {
            if at == 0 || data[at - 1] != b'\r' {
                return Err(BareLineFeed);
            }
            if at - 1 == self.line {
                return Ok(Some(at + 1));
            }
            self.line = at + 1;
        }
        self.scanned = data.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_bytes_arrive() {
        let data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let end = data.len() - 4;
        for step in 1..data.len() {
            let mut scanner = Scanner::default();
            let found =
                (1..).map(|i| (i * step).min(data.len())).find_map(|to| scanner.scan(&data[..to]).expect("good"));
            assert_eq!(found, Some(end), "in steps of {step}");
        }
    }

    #[test]
    fn line_feeds_alone_are_refused() {
        for bad in [&b"\n"[..], b"a\n", b"a\r\nb\n\r\n", b"a\r\n\n", b"\r\r\n\n"] {
            assert_eq!(Scanner::default().scan(bad), Err(BareLineFeed), "{bad:?}");
        }
        assert_eq!(Scanner::default().scan(b"\r\n"), Ok(Some(2)));
    }
}
