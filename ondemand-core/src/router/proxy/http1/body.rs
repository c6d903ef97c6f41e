//! Where a body ends, and what of its bytes is data.

use super::trailers;

/// How the end of a body is told (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// By its length.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection; answers only.
    UntilClose,
}

/// The longest body that a length or a chunk may announce. More than a signed number of 64 bits holds is read differently by
/// different programs.
pub(crate) const LONGEST: u64 = i64::MAX as u64;
/// The longest line that begins a chunk, without its end.
const CHUNK_LINE: usize = 256;
/// How long all trailer fields together may be.
const TRAILERS: usize = 8 << 10;

/// Takes a body out of a stream of bytes.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    trailers: Vec<u8>,
    /// Whether it is that of an answer, of which a little more is put up with.
    of_answer: bool,
    /// The fields that the head's `Connection` names.
    named: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This much is left of a body with a length.
    Length(u64),
    UntilClose,
    /// The size of a chunk: its digits so far, and what they say.
    Size {
        digits: usize,
        size: u64,
    },
    /// Spaces after a chunk's size, which go before an extension; in an answer, they may be padding.
    Padding {
        size: u64,
        length: usize,
    },
    /// What follows a chunk's size, which nobody needs.
    Extension {
        size: u64,
        length: usize,
        quoted: Quoted,
    },
    SizeEnd(u64),
    /// This much is left of a chunk.
    Chunk(u64),
    ChunkEnd,
    ChunkEndFeed,
    Trailers(super::scan::Scanner),
    Done,
}

/// Where in an extension's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoted {
    No,
    Yes,
    /// After a backslash in quotes.
    Escaped,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// That many bytes of data are at the front of the input; [`Decoder::took`] says how many were used.
    Data(usize),
    /// That many bytes at the front of the input are no data.
    Skip(usize),
    /// More input is needed.
    More,
    /// The body has ended.
    End,
}

/// A body that does not follow the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { digits: 0, size: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, trailers: Vec::new(), of_answer: false, named: Vec::new() }
    }

    /// Says that it is that of an answer.
    pub(crate) fn of_answer(mut self) -> Self {
        self.of_answer = true;
        self
    }

    /// Says which fields the head's `Connection` names: they go no further as trailers either.
    pub(crate) fn without(mut self, named: Vec<Vec<u8>>) -> Self {
        self.named = named;
        self
    }

    /// Says what the input begins with. No data is used up by this.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Piece, Malformed> {
        match self.state {
            State::Length(0) | State::Done => Ok(Piece::End),
            _ if input.is_empty() => Ok(Piece::More),
            State::Length(left) | State::Chunk(left) => {
                Ok(Piece::Data(usize::try_from(left).unwrap_or(usize::MAX).min(input.len())))
            }
            State::UntilClose => Ok(Piece::Data(input.len())),
            State::Trailers(scanner) => self.trailers(scanner, input),
            _ => self.line(input),
        }
    }

    /// Says that data was used.
    pub(crate) fn took(&mut self, count: usize) {
        let count = count as u64;
        self.state = match self.state {
            State::Length(left) => State::Length(left.saturating_sub(count)),
            State::Chunk(left) if left <= count => State::ChunkEnd,
            State::Chunk(left) => State::Chunk(left - count),
            state => state,
        };
    }

    /// Tells whether the body is whole where the connection ends.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Length(0) | State::Done)
    }

    /// Returns the trailer fields, each line with its end.
    pub(crate) fn trailer_lines(&self) -> &[u8] {
        &self.trailers
    }

    /// Goes over the bytes between chunks.
    fn line(&mut self, input: &[u8]) -> Result<Piece, Malformed> {
        for (at, &byte) in input.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                    let digit = u64::from(char::from(byte).to_digit(16).unwrap_or(0));
                    if digits == 16 || size > LONGEST >> 4 {
                        return Err(Malformed("a chunk is larger than any can be"));
                    }
                    State::Size { digits: digits + 1, size: size << 4 | digit }
                }
                (State::Size { digits: 0, .. }, _) => return Err(Malformed("a chunk has no size")),
                (State::Size { size, .. } | State::Extension { size, quoted: Quoted::No, .. }, b'\r') => {
                    State::SizeEnd(size)
                }
                (State::Padding { size, .. }, b'\r') if self.of_answer => State::SizeEnd(size),
                (State::Size { size, .. }, b' ' | b'\t') => State::Padding { size, length: 1 },
                (State::Size { size, .. } | State::Padding { size, .. }, b';') => {
                    State::Extension { size, length: 0, quoted: Quoted::No }
                }
                (State::Padding { length: CHUNK_LINE, .. } | State::Extension { length: CHUNK_LINE, .. }, _) => {
                    return Err(Malformed("a chunk's extension is too long"));
                }
                (State::Padding { size, length }, b' ' | b'\t') => State::Padding { size, length: length + 1 },
                (State::Size { .. } | State::Padding { .. }, _) => {
                    return Err(Malformed("a chunk's size is no number"));
                }
                (State::Extension { size, length, quoted }, b'\t' | b' '..=b'~' | 0x80..) => {
                    let quoted = match (quoted, byte) {
                        (Quoted::No, b'"') | (Quoted::Escaped, _) => Quoted::Yes,
                        (Quoted::Yes, b'"') => Quoted::No,
                        (Quoted::Yes, b'\\') => Quoted::Escaped,
                        (quoted, _) => quoted,
                    };
                    if quoted == Quoted::No && byte >= 0x80 {
                        return Err(Malformed("a chunk's extension is none"));
                    }
                    State::Extension { size, length: length + 1, quoted }
                }
                (State::Extension { .. }, _) => return Err(Malformed("a chunk's extension is none")),
                (State::SizeEnd(0), b'\n') => {
                    self.state = State::Trailers(super::scan::Scanner::default());
                    return Ok(Piece::Skip(at + 1));
                }
                (State::SizeEnd(size), b'\n') => {
                    self.state = State::Chunk(size);
                    return Ok(Piece::Skip(at + 1));
                }
                (State::ChunkEnd, b'\r') => State::ChunkEndFeed,
                (State::ChunkEndFeed, b'\n') => State::Size { digits: 0, size: 0 },
                _ => return Err(Malformed("a chunk's line does not end as it must")),
            };
        }
        Ok(Piece::Skip(input.len()))
    }

    /// Collects the trailer fields up to the empty line.
    fn trailers(&mut self, mut scanner: super::scan::Scanner, input: &[u8]) -> Result<Piece, Malformed> {
        let before = self.trailers.len();
        let room = TRAILERS.saturating_sub(before);
        self.trailers.extend_from_slice(&input[..input.len().min(room)]);
        let end = scanner.scan(&self.trailers).map_err(|_| Malformed("a trailer's line does not end as it must"))?;
        let Some(end) = end else {
            if self.trailers.len() >= TRAILERS {
                return Err(Malformed("the trailers are too long"));
            }
            self.state = State::Trailers(scanner);
            return Ok(Piece::Skip(self.trailers.len() - before));
        };
        let used = end - before;
        self.trailers = trailers::passed_on(&self.trailers[..end], &self.named, self.of_answer)?;
        self.state = State::Done;
        Ok(Piece::Skip(used))
    }
}

/// Writes data as a chunk.
pub(crate) fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if data.is_empty() {
        // That would be the last one.
        return;
    }
    let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    out.extend((0..digits).rev().map(|i| DIGITS[data.len() >> (4 * i) & 15]));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a chunked body apart that arrives in pieces of a given size; returns the data, the trailers, and what is left.
    fn decode(body: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, usize), Malformed> {
        let mut decoder = Decoder::new(Framing::Chunked);
        let (mut data, mut at, mut to) = (Vec::new(), 0, step.min(body.len()));
        loop {
            match decoder.next(&body[at..to])? {
                Piece::Data(count) => {
                    data.extend_from_slice(&body[at..at + count]);
                    decoder.took(count);
                    at += count;
                }
                Piece::Skip(count) => at += count,
                Piece::End => return Ok((data, decoder.trailers.clone(), body.len() - at)),
                Piece::More if to == body.len() => return Err(Malformed("cut off")),
                Piece::More => to = (to + step).min(body.len()),
            }
        }
    }

    #[test]
    fn chunks_are_put_together_however_they_arrive() {
        let body = b"5\r\nhello\r\n006;a=b\r\n world\r\n0\r\nA: b\r\nC: d\r\n\r\nnext";
        for step in 1..body.len() {
            let (data, trailers, left) = decode(body, step).expect("a body");
            assert_eq!(
                (&data[..], &trailers[..]),
                (&b"hello world"[..], &b"A: b\r\nC: d\r\n"[..]),
                "in steps of {step}"
            );
            assert_eq!(left, 4);
        }
    }

    #[test]
    fn what_is_not_chunked_as_it_must_be_is_refused() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
        let trailers = format!("0\r\nA: {}\r\n\r\n", "x".repeat(9000));
        let bad = [
            "\r\n",
            ";\r\n",
            "x\r\n",
            "0x1\r\na\r\n",
            "+1\r\na\r\n",
            "-1\r\na\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "1 x\r\na\r\n",
            "1;a=\"b\r\na\r\n",
            "1;a=\"b\\\"\r\na\r\n",
            "1;é\r\na\r\n",
            "1\na\n0\n\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na0\r\n\r\n",
            "1\r\r\na\r\n",
            "1;\n\r\na\r\n",
            "1;a\rb\r\na\r\n",
            "8000000000000000\r\n",
            "10000000000000000\r\n",
            "00000000000000001\r\na\r\n",
            "0\r\n\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA b\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nA: \0\r\n\r\n",
            &long,
            &trailers,
        ];
        for body in bad {
            for step in [1, 3, 100_000] {
                let error = decode(body.as_bytes(), step).expect_err(body);
                assert_ne!(error, Malformed("cut off"), "{body:?}");
            }
        }
        assert_eq!(decode(b"5\r\nhel", 1), Err(Malformed("cut off")));
    }

    #[test]
    fn extensions_are_skipped_as_they_are_written() {
        for line in ["5;a=\"b;c\"", "5 ;x=y", "5\t; a = \"\\\"é\"", "5;", "05 ; a;b"] {
            let body = format!("{line}\r\nhello\r\n0 ;z\r\n\r\n");
            for step in [1, 100] {
                assert_eq!(decode(body.as_bytes(), step).expect(line).0, b"hello", "{line}");
            }
        }
        let padded = b"2   \r\nok\r\n0\t\r\nContent-Length: 5\r\n\r\n";
        assert!(decode(padded, 1).is_err(), "in a request");
        let mut decoder = Decoder::new(Framing::Chunked).of_answer();
        assert_eq!(decoder.next(padded), Ok(Piece::Skip(6)));
    }

    #[test]
    fn written_chunks_are_read_back() {
        for length in [1, 9, 15, 16, 17, 255, 256, 4095, 65_536] {
            let mut out = Vec::new();
            write_chunk(&mut out, &vec![b'x'; length]);
            out.extend_from_slice(b"0\r\n\r\n");
            assert_eq!(decode(&out, 7).expect("a body").0.len(), length);
            assert!(out.starts_with(format!("{length:x}\r\n").as_bytes()));
        }
    }

    #[test]
    fn a_length_is_counted_down() {
        let mut decoder = Decoder::new(Framing::Length(3));
        assert_eq!(decoder.next(b""), Ok(Piece::More));
        assert_eq!(decoder.next(b"abcd"), Ok(Piece::Data(3)));
        decoder.took(2);
        assert!(!decoder.ends_with_connection());
        assert_eq!(decoder.next(b"cd"), Ok(Piece::Data(1)));
        decoder.took(1);
        assert_eq!(decoder.next(b"d"), Ok(Piece::End));
        assert!(decoder.ends_with_connection());
    }
}
