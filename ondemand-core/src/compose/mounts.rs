//! What a service sees of files: volumes, directories of the host, memory, secrets and configuration files.

use std::path::PathBuf;

use super::field::Field;
use super::problem::Read;
use super::{Document, files};
use crate::orchestrator::{FileMount, Mount, ServiceSpec, Tmpfs, VolumeMount};

/// Reads `volumes` of a service.
pub(super) fn volumes(field: &Field<'_>, document: &Document, spec: &mut ServiceSpec) -> Read<()> {
    for item in field.items()? {
        if item.is_mapping() { long(&item, document, spec)? } else { short(&item, document, spec)? }
    }
    Ok(())
}

fn short(item: &Field<'_>, document: &Document, spec: &mut ServiceSpec) -> Read<()> {
    let text = item.word()?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(item.problem("it must be SOURCE:TARGET or SOURCE:TARGET:OPTIONS")),
    };
    let (mut read_only, mut nocopy) = (false, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => nocopy = true,
            _ => return Err(item.problem(format!("the option {option:?} is not supported; ro, rw and nocopy are"))),
        }
    }
    let target = absolute(item, target)?;
    match source {
        Some(source) if source.starts_with(['/', '.', '~']) => {
            if nocopy {
                return Err(item.problem("nocopy is for volumes, not for directories of the host"));
            }
            let source = host_path(item, document, source)?;
            spec.mounts.push(Mount { source, target, read_only });
        }
        Some("") => return Err(item.problem("it has no source before the colon")),
        volume => spec.volumes.push(VolumeMount { volume: volume.map(str::to_owned), target, read_only, nocopy }),
    }
    Ok(())
}

fn absolute(item: &Field<'_>, path: &str) -> Read<PathBuf> {
    if !path.starts_with('/') || path == "/" {
        return Err(item.problem(format!("{path:?} must be an absolute path within the container")));
    }
    Ok(PathBuf::from(path))
}

fn host_path(field: &Field<'_>, document: &Document, source: &str) -> Read<PathBuf> {
    if source.starts_with('~') {
        return Err(field.problem("there is no home directory on a cluster; write the path out"));
    }
    if source.starts_with('/') {
        return Ok(PathBuf::from(source));
    }
    files::resolve(document, source).map_err(|reason| field.problem(reason))
}

/// What a mount of the long syntax is of.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Volume,
    Bind,
    Tmpfs,
}

fn long(item: &Field<'_>, document: &Document, spec: &mut ServiceSpec) -> Read<()> {
    let Some(kind) = item.entries()?.into_iter().find(|field| field.name() == "type") else {
        return Err(item.problem("it has no type; volume, bind and tmpfs are supported"));
    };
    let kind = kind.choice(&[("volume", Type::Volume), ("bind", Type::Bind), ("tmpfs", Type::Tmpfs)])?;
    let (mut source, mut target) = (None, None);
    let (mut read_only, mut nocopy) = (false, false);
    let (mut size, mut mode) = (None, None);
    for field in item.entries()? {
        match (field.name(), kind) {
            ("type", _) => {}
            ("source", Type::Volume | Type::Bind) => source = Some((field.word()?, field)),
            ("target", _) => target = Some(absolute(&field, &field.word()?)?),
            ("read_only", Type::Volume | Type::Bind) => read_only = field.boolean()?,
            ("volume", Type::Volume) => {
                for option in field.entries()? {
                    match option.name() {
                        "nocopy" => nocopy = option.boolean()?,
                        _ => return Err(option.unsupported()),
                    }
                }
            }
            ("tmpfs", Type::Tmpfs) => (size, mode) = memory(&field)?,
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    let target = target.ok_or_else(|| item.problem("it has no target, the path within the container"))?;
    match kind {
        Type::Volume => {
            let volume = source.map(|(source, _)| source);
            spec.volumes.push(VolumeMount { volume, target, read_only, nocopy });
        }
        Type::Bind => {
            let Some((source, field)) = source else { return Err(item.problem("it has no source")) };
            let source = host_path(&field, document, &source)?;
            spec.mounts.push(Mount { source, target, read_only });
        }
        Type::Tmpfs => spec.tmpfs.push(Tmpfs { target, size, mode }),
    }
    Ok(())
}

fn memory(field: &Field<'_>) -> Read<(Option<u64>, Option<u32>)> {
    let (mut size, mut mode) = (None, None);
    for option in field.entries()? {
        match option.name() {
            "size" => size = Some(option.bytes()?),
            "mode" => mode = Some(option.whole()?),
            _ => return Err(option.unsupported()),
        }
    }
    Ok((size, mode))
}

/// Reads `tmpfs`: paths, each with options as `mount` takes them.
pub(super) fn tmpfs(field: &Field<'_>) -> Read<Vec<Tmpfs>> {
    let mut all = Vec::new();
    for text in field.text_or_texts()? {
        let (path, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut tmpfs = Tmpfs { target: absolute(field, path)?, size: None, mode: None };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", size)) => {
                    tmpfs.size = Some(super::notation::bytes(size).map_err(|reason| field.problem(reason))?);
                }
                Some(("mode", mode)) => {
                    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
                    tmpfs.mode = Some(mode.ok_or_else(|| field.problem("the mode must be octal, as in mode=1777"))?);
                }
                _ => return Err(field.problem(format!("the option {option:?} is not supported; size and mode are"))),
            }
        }
        all.push(tmpfs);
    }
    Ok(all)
}

/// Reads `secrets` or `configs` of a service.
pub(super) fn file_mounts(field: &Field<'_>) -> Read<Vec<FileMount>> {
    let mut all: Vec<FileMount> = Vec::new();
    for item in field.items()? {
        let mut mount = FileMount { source: String::new(), target: None, uid: None, gid: None, mode: None };
        if item.is_mapping() {
            for field in item.entries()? {
                match field.name() {
                    "source" => mount.source = field.word()?,
                    "target" => mount.target = Some(field.word()?),
                    "uid" => mount.uid = Some(number(&field)?),
                    "gid" => mount.gid = Some(number(&field)?),
                    "mode" => mount.mode = Some(mode(&field)?),
                    _ if field.is_extension() => {}
                    _ => return Err(field.unsupported()),
                }
            }
            if mount.source.is_empty() {
                return Err(item.problem("it has no source"));
            }
        } else {
            mount.source = item.word()?;
        }
        let seen_as = |mount: &FileMount| mount.target.clone().unwrap_or_else(|| mount.source.clone());
        if all.iter().any(|other| seen_as(other) == seen_as(&mount)) {
            return Err(item.problem("another one has the same target"));
        }
        all.push(mount);
    }
    Ok(all)
}

fn number(field: &Field<'_>) -> Read<String> {
    let text = field.text()?;
    match text.parse::<u32>() {
        Ok(number) => Ok(number.to_string()),
        Err(_) => Err(field.problem("it must be a number")),
    }
}

fn mode(field: &Field<'_>) -> Read<u32> {
    match field.whole::<u32>()? {
        mode if mode <= 0o7777 => Ok(mode),
        _ => Err(field.problem("it is not a mode; write it with a leading zero, as in 0440")),
    }
}
