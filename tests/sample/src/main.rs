//! Writes a sample shop as SQL to standard output: people, addresses, categories, products, orders, order lines, payments and
//! reviews, with keys and indexes, in the amount that is asked for. The same arguments give the same bytes.

mod chance;
mod row;
mod shop;
mod words;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use shop::Shop;

const USAGE: &str = "usage: sample-shop [--size BYTES] [--seed NUMBER]

Writes SQL for psql to standard output, of at least --size bytes (1G where there is none; 500M, 20G).";

fn main() -> ExitCode {
    let written = match arguments(std::env::args().skip(1)) {
        Ok((size, seed)) => write(size, seed),
        Err(message) => {
            complain(&format!("{message}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn write(size: u64, seed: u64) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    Shop::of_size(size, seed).write(&mut out)?;
    out.flush()
}

fn complain(message: &str) {
    // Nothing is left to do where even this fails.
    let _ = writeln!(io::stderr(), "sample-shop: {message}");
}

/// Reads the size and the seed.
fn arguments(mut arguments: impl Iterator<Item = String>) -> Result<(u64, u64), String> {
    let (mut size, mut seed) = (1 << 30, 1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value, or is no option"))?;
        match option.as_str() {
            "--size" => size = bytes(&value).ok_or_else(|| format!("{value:?} is no size"))?,
            "--seed" => seed = value.parse().map_err(|_| format!("{value:?} is no number"))?,
            _ => return Err(format!("{option} is no option")),
        }
    }
    Ok((size, seed))
}

/// Reads a number of bytes with a unit: `500M`, `20G`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop(size: u64, seed: u64) -> String {
        let mut out = Vec::new();
        Shop::of_size(size, seed).write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The rows of a table, as lists of columns.
    fn rows<'a>(sql: &'a str, table: &str) -> Vec<Vec<&'a str>> {
        let (_, rest) = sql.split_once(&format!("\nCOPY shop.{table} ")).unwrap();
        let (data, _) = rest.split_once("\n\\.\n").unwrap();
        data.lines().skip(1).map(|line| line.split('\t').collect()).collect()
    }

    #[test]
    fn it_has_the_size_that_was_asked_for() {
        for size in [1 << 20, 5 << 20, 16 << 20] {
            let got = shop(size, 1).len() as u64;
            assert!(got >= size && got < size + size / 5 + (1 << 19), "{got} of {size}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_shop() {
        assert_eq!(shop(1 << 20, 7), shop(1 << 20, 7));
        assert_ne!(shop(1 << 20, 7), shop(1 << 20, 8));
    }

    #[test]
    fn orders_add_up() {
        let sql = shop(2 << 20, 1);
        let mut sums = std::collections::HashMap::<&str, u64>::new();
        for line in rows(&sql, "order_lines") {
            *sums.entry(line[0]).or_default() += line[3].parse::<u64>().unwrap() * line[4].parse::<u64>().unwrap();
        }
        let orders = rows(&sql, "orders");
        assert!(orders.len() > 1000, "{}", orders.len());
        for order in orders {
            assert_eq!(sums[order[0]], order[5].parse::<u64>().unwrap(), "{order:?}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("500"), Some(500));
        assert_eq!(bytes("2G"), Some(2 << 30));
        for bad in ["", "G", "1.5G", "-1", "1X", "99999999999999T"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
