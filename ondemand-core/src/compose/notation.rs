//! How compose files write times, sizes, processors, booleans and commands.

use std::time::Duration;

use crate::notation::Size;

/// Reads a boolean in any of the spellings that compose takes.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Some(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Reads a duration: `30s`, `1m30s`, `1.5h`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{:?} is not a duration; write it as 30s or 1m30s", crate::error::shorten(text));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(invalid());
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(end);
        let length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "w" => 604_800_000_000_000,
            _ => return Err(invalid()),
        };
        let billionths = u128::from(decimal(number).ok_or_else(invalid)?);
        nanos += billionths * unit / 1_000_000_000;
        rest = after;
    }
    // The engine keeps it in 63 bits.
    u64::try_from(nanos)
        .ok()
        .filter(|nanos| i64::try_from(*nanos).is_ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("{:?} is too long", crate::error::shorten(text)))
}

/// Reads a decimal number as thousand millionths, exactly.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && part.is_empty() || part.len() > 9 {
        return None;
    }
    let digits = |text: &str| -> Option<u64> {
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        if text.is_empty() { Some(0) } else { text.parse().ok() }
    };
    let part = digits(part)? * 10_u64.pow(9 - u32::try_from(part.len()).ok()?);
    digits(whole)?.checked_mul(1_000_000_000)?.checked_add(part)
}

/// Reads a number of bytes: `512M`, `1gb`, `1024`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let invalid = || format!("{:?} is not a size; write it as 512M or 2G", crate::error::shorten(text));
    if !text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(['_', 'e', 'E']) {
        return Err(invalid());
    }
    match text.parse::<Size>() {
        Ok(Size(bytes)) if i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => Err(invalid()),
    }
}

/// Reads a whole number as YAML writes it: decimal, octal with a leading zero, hexadecimal.
pub(crate) fn whole(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = if let Some(digits) = digits.strip_prefix("0x") {
        (digits, 16)
    } else if let Some(digits) = digits.strip_prefix("0o") {
        (digits, 8)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (&digits[1..], 8)
    } else {
        (digits, 10)
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

/// Splits a command into words as a POSIX shell does, with no expansion of any kind.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a single quote is not closed".into()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some('\n') => {}
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a double quote is not closed".into()),
                        },
                        Some(c) => word.push(c),
                        None => return Err("a double quote is not closed".into()),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("a backslash is followed by nothing".into()),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_what_compose_writes() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("1h5m30s20ms", 3_930_020),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "30", "s", "1x", "-1s", "1 s", "1m 30s", ".s", "1.2.3s", "99999999999h", "99999999999999999999s"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(decimal("0.5"), Some(500_000_000));
        assert_eq!(decimal("2"), Some(2_000_000_000));
        assert_eq!(decimal(".25"), Some(250_000_000));
        assert_eq!(decimal("0.000000001"), Some(1));
        for text in ["", ".", "-1", "1e3", "0.0000000001", "99999999999999", "x"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [("64", 64), ("512M", 512 << 20), ("50m", 50 << 20), ("1gb", 1 << 30), ("1.5G", 3 << 29)] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "-1", "M", "1x", "1e3", "99999999999G"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_may_be_octal() {
        assert_eq!(whole("0444"), Some(0o444));
        assert_eq!(whole("0o444"), Some(0o444));
        assert_eq!(whole("444"), Some(444));
        assert_eq!(whole("0"), Some(0));
        assert_eq!(whole("-1"), Some(-1));
        assert_eq!(whole("0x10"), Some(16));
        for text in ["", "-", "--1", "0-1", "08", "1.5", "x", "0o", "9223372036854775808"] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    #[test]
    fn commands_are_split_as_a_shell_does() {
        for (text, expected) in [
            ("", &[][..]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            ("sh -c 'echo \"$HOME\"'", &["sh", "-c", "echo \"$HOME\""]),
            (r#"a "b \"c\" \n \\ $d""#, &["a", r#"b "c" \n \ $d"#]),
            (r"a\ b c\'d", &["a b", "c'd"]),
            ("--x='a b'c", &["--x=a bc"]),
            ("a '' \"\"", &["a", "", ""]),
            ("a \\\n b", &["a", "b"]),
            ("a#b #c", &["a#b", "#c"]),
        ] {
            assert_eq!(words(text).expect(text), expected, "{text}");
        }
        for text in ["'", "\"", "a\\", "\"\\"] {
            assert!(words(text).is_err(), "{text}");
        }
    }
}
