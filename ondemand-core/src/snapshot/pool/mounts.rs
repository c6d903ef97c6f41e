//! What is mounted where, as the kernel tells.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::BACKEND;
use crate::error::{Error, Result};
use crate::own;

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Where it is mounted.
    pub(super) path: PathBuf,
    /// Its loop device.
    pub(super) device: Option<PathBuf>,
    /// The file behind its loop device.
    pub(super) image: Option<PathBuf>,
}

impl Mounted {
    pub(super) fn is_image(&self, image: &Path) -> bool {
        self.image.as_deref() == Some(image)
    }
}

/// Returns what is mounted at `path` itself.
pub(super) fn at(path: &Path) -> Result<Option<Mounted>> {
    // A path that does not exist is no mount point; its links are followed as the kernel did when it was mounted.
    let Ok(path) = fs::canonicalize(path) else { return Ok(None) };
    // The last one lies on top.
    Ok(all()?.into_iter().rfind(|mounted| mounted.path == path))
}

/// Returns where the file system in `image` is mounted.
pub(super) fn of_image(image: &Path) -> Result<Option<Mounted>> {
    Ok(all()?.into_iter().find(|mounted| mounted.is_image(image)))
}

fn all() -> Result<Vec<Mounted>> {
    let text = own::read("/proc/self/mountinfo").map_err(|e| Error::io(BACKEND, "reading the mounts", e))?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// Parses a line: `36 35 98:0 / /mnt rw,noatime shared:1 - btrfs /dev/loop0 rw`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&b| b == b' ');
    let path = unescape(fields.nth(4)?);
    let mut after = fields.skip_while(|&field| field != b"-");
    let source = unescape(after.nth(2)?);
    let device = Path::new(&source).strip_prefix("/dev").ok().filter(|d| d.display().to_string().starts_with("loop"));
    let backing =
        device.and_then(|device| own::read(Path::new("/sys/block").join(device).join("loop/backing_file")).ok());
    let image = backing.map(|file| OsString::from_vec(file.trim_ascii_end().to_vec()).into());
    Some(Mounted { path: path.into(), device: device.map(|_| PathBuf::from(&source)), image })
}

/// Turns `\040` and its like back into the characters they stand for.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let escaped = digits.filter(|_| first == b'\\').and_then(|d| u8::from_str_radix(d, 8).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table() {
        let line =
            br"36 35 98:0 /root /mnt/with\040space rw,noatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=continue";
        assert_eq!(parse(line), Some(Mounted { path: "/mnt/with space".into(), device: None, image: None }));
        for broken in ["", "36", "36 35 98:0 / /mnt rw", "36 35 98:0 / /mnt rw - btrfs"] {
            assert_eq!(parse(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(br"a\040b\134c\04"), r"a b\c\04");
        assert_eq!(unescape(br"\999"), r"\999");
    }
}
