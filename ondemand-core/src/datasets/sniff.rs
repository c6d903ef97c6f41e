//! Telling what a dump is by its first bytes.

use crate::error::{Error, Result};

/// How many bytes are looked at.
pub(super) const HEAD: usize = 64 * 1024;

/// Tar archives consist of blocks of this size.
const TAR_BLOCK: usize = 512;

/// A compression whose magic bytes were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

/// What the bytes are, once no compression is left around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Sql,
    /// What `pg_dump -Fc` writes.
    Custom,
    /// What `pg_dump -Ft` writes.
    TarDump,
    /// A tar archive of a directory.
    Tar,
}

/// Tells whether `head` begins a compressed stream that can be read here.
pub(super) fn compression(head: &[u8]) -> Option<Compression> {
    if head.starts_with(&[0x1f, 0x8b]) {
        return Some(Compression::Gzip);
    }
    // A zstd stream may begin with a skippable frame.
    let skippable = head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
    (head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable).then_some(Compression::Zstd)
}

/// Tells what uncompressed bytes are.
///
/// # Errors
/// [`Error::InvalidDump`] that says what they are instead of a dump.
pub(super) fn content(head: &[u8]) -> Result<Content> {
    let invalid = |message: &str, hint: &str| {
        Err(Error::InvalidDump { message: message.to_owned(), log: Vec::new(), hint: hint.to_owned() })
    };
    if head.is_empty() {
        return invalid("it is empty", "check that pg_dump succeeded, and that the file was copied whole");
    }
    if head.starts_with(b"PGDMP") {
        return archive(head);
    }
    if head.starts_with(b"PGCOPY\n\xff\r\n\0") {
        return invalid("it is the binary output of COPY, one table's data without its definition", "use pg_dump -Fc");
    }
    for (magic, name, command) in [
        (&b"PK\x03\x04"[..], "a zip archive", "unzip -p"),
        (b"\xfd7zXZ\0", "compressed with xz", "xz -dc"),
        (b"BZh", "compressed with bzip2", "bzip2 -dc"),
        (b"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -dc"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x -so"),
        (b"Rar!\x1a\x07", "a rar archive", "unrar p -inul"),
    ] {
        if head.starts_with(magic) {
            return invalid(
                &format!("it is {name}"),
                &format!(
                    "unpack it first: `{command} FILE | ondemand dataset import NAME --dump -`; gzip and zstd are understood"
                ),
            );
        }
    }
    if head.starts_with(b"SQLite format 3\0") {
        return invalid("it is an SQLite database", ANOTHER_SYSTEM);
    }
    if let Some(system) = other_system(head) {
        return invalid(&format!("it is a dump of {system}"), ANOTHER_SYSTEM);
    }
    if is_tar(head) {
        // The table of contents comes first, and says that it is of an archive in this format. A directory's says otherwise.
        let toc = head.get(TAR_BLOCK..).unwrap_or_default();
        let own = head.starts_with(b"toc.dat\0") && toc.starts_with(b"PGDMP") && toc.get(10) == Some(&3);
        return Ok(if own { Content::TarDump } else { Content::Tar });
    }
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return invalid("it is text in UTF-16, as PowerShell's `>` writes it", "write it with `pg_dump -f FILE`");
    }
    let control = |b: u8| b < 0x20 && !b"\t\n\r\x08\x0b\x0c\x1b".contains(&b) || b == 0x7f;
    if head.iter().any(|&b| control(b)) {
        return invalid(
            "it is neither SQL text nor an archive of pg_dump, a tar archive, or one of these compressed with gzip or zstd",
            "import the output of pg_dump or pg_dumpall",
        );
    }
    Ok(Content::Sql)
}

const ANOTHER_SYSTEM: &str = "only dumps of PostgreSQL are restored: load it into one first, with pgloader for instance, and import the output of pg_dump";

/// Tells which other system's dump SQL text is, by what only its program writes at the beginning.
fn other_system(head: &[u8]) -> Option<&'static str> {
    let head = String::from_utf8_lossy(&head[..head.len().min(4096)]);
    let begins = |texts: &[&str]| head.lines().take(40).any(|line| texts.iter().any(|text| line.starts_with(text)));
    if begins(&["-- MySQL dump", "-- MariaDB dump", "-- phpMyAdmin SQL Dump", "/*M!", "/*!40", "-- mysqldump"]) {
        return Some("MySQL or MariaDB");
    }
    if begins(&["PRAGMA "]) {
        return Some("SQLite");
    }
    let of_sql_server = ["USE [", "/****** Object:", "SET ANSI_NULLS ON", "SET QUOTED_IDENTIFIER ON"];
    if begins(&of_sql_server) && head.lines().any(|line| line.trim_end().eq_ignore_ascii_case("GO")) {
        return Some("SQL Server");
    }
    begins(&["REM INSERTING into", "-- Oracle SQL Developer"]).then_some("Oracle")
}

/// Tells what an archive with the magic of pg_dump is; its eleventh byte says how the data is kept.
fn archive(head: &[u8]) -> Result<Content> {
    let invalid = |message: &str, hint: &str| {
        Err(Error::InvalidDump { message: message.to_owned(), log: Vec::new(), hint: hint.to_owned() })
    };
    match head.get(10) {
        Some(1) => Ok(Content::Custom),
        Some(3 | 5) => invalid(
            "it is the table of contents of a directory dump, without the data",
            "import the whole directory, or a tar archive of it",
        ),
        Some(_) => invalid("it is an archive of an unknown kind", "use pg_dump -Fc"),
        None => invalid("it is truncated", "check that pg_dump succeeded, and that the file was copied whole"),
    }
}

/// Tells whether `head` begins a tar archive: the magic stands at 257, and the header's sum fits.
fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.get(..TAR_BLOCK) else { return false };
    if &header[257..262] != b"ustar" {
        return false;
    }
    let field = std::str::from_utf8(&header[148..156]).unwrap_or_default();
    let expected = u32::from_str_radix(field.trim_matches(['\0', ' ']), 8).ok();
    let sum: u32 =
        header.iter().enumerate().map(|(i, &b)| u32::from(if (148..156).contains(&i) { b' ' } else { b })).sum();
    expected == Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_dump_says_what_it_is() {
        let message = |head: &[u8]| content(head).expect_err("it is no dump").to_string();
        for (head, word) in [
            (&b""[..], "empty"),
            (b"PGCOPY\n\xff\r\n\0", "COPY"),
            (b"PK\x03\x04", "zip"),
            (b"\xfd7zXZ\0", "xz"),
            (b"BZh9", "bzip2"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"PGDMP\x01\x0e\0\x04\x08\x03", "directory dump"),
            (b"PGDMP\x01\x0e", "truncated"),
            (b"-- MySQL dump 10.13  Distrib 8.0.36\n--\n-- Host: localhost\n", "MySQL"),
            (b"/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19\n", "MariaDB"),
            (b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n", "SQLite"),
            (b"USE [master]\r\nGO\r\n/****** Object:  Database [x] ******/\r\n", "SQL Server"),
            (b"\xff\xfeS\0E\0", "UTF-16"),
            (b"SELECT 1;\0", "neither"),
        ] {
            assert!(message(head).contains(word), "{head:?}: {}", message(head));
        }
    }

    #[test]
    fn dumps_are_recognised() {
        assert_eq!(content(b"--\n-- PostgreSQL database dump\n").expect("SQL"), Content::Sql);
        assert_eq!(content("SELECT 'ü';".as_bytes()).expect("SQL"), Content::Sql);
        assert_eq!(content(b"SELECT '\xfc';").expect("SQL in Latin-1"), Content::Sql);
        assert_eq!(content(b"PGDMP\x01\x0e\0\x04\x08\x01").expect("an archive"), Content::Custom);
        let mut header = tar::Header::new_ustar();
        header.set_path("toc.dat").expect("a path");
        header.set_size(0);
        header.set_cksum();
        assert_eq!(content(header.as_bytes()).expect("a tar archive"), Content::Tar);
        let own = [header.as_bytes(), &b"PGDMP\x01\x0e\0\x04\x08\x03"[..]].concat();
        assert_eq!(content(&own).expect("pg_dump -Ft"), Content::TarDump);
        let of_directory = [header.as_bytes(), &b"PGDMP\x01\x0e\0\x04\x08\x05"[..]].concat();
        assert_eq!(content(&of_directory).expect("a tar archive"), Content::Tar);
        let mut gnu = tar::Header::new_gnu();
        gnu.set_path("./PG_VERSION").expect("a path");
        gnu.set_size(3);
        gnu.set_cksum();
        assert_eq!(content(gnu.as_bytes()).expect("a tar archive"), Content::Tar);
        assert_eq!(compression(&[0x1f, 0x8b, 8]), Some(Compression::Gzip));
        assert_eq!(compression(&[0x28, 0xb5, 0x2f, 0xfd]), Some(Compression::Zstd));
        assert_eq!(compression(b"--"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(head in proptest::collection::vec(0_u8.., 0..600)) {
            let _ = compression(&head);
            let _ = content(&head);
        }
    }
}
