//! Text that stands where a number or a boolean belongs becomes one: a variable is always text, and the schema of
//! compose files is not content with that.

use super::notation;
use super::tree::{Node, Value, is_number};

/// Gives scalars the types that their places ask for. What cannot be one stays, and is refused where it is read.
pub(crate) fn cast(root: &mut Node) {
    let Value::Mapping(sections) = &mut root.value else { return };
    for (key, node) in sections {
        if matches!(key.text.as_str(), "services" | "networks" | "volumes" | "secrets" | "configs") {
            walk(node, &mut vec![key.text.clone()]);
        }
    }
}

fn walk(node: &mut Node, path: &mut Vec<String>) {
    match &mut node.value {
        Value::Mapping(entries) => {
            for (key, node) in entries {
                path.push(key.text.clone());
                walk(node, path);
                path.pop();
            }
        }
        Value::Sequence(items) => {
            for item in items {
                path.push(String::new());
                walk(item, path);
                path.pop();
            }
        }
        Value::String(text) => {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            match kind(&path) {
                Some(Kind::Number) if is_number(text) => node.value = Value::Number(std::mem::take(text)),
                Some(Kind::Size) => {
                    if let Ok(bytes) = notation::bytes(text) {
                        node.value = Value::Number(bytes.to_string());
                    }
                }
                Some(Kind::Boolean) => {
                    if let Some(value) = notation::boolean(text) {
                        node.value = Value::Bool(value);
                    }
                }
                _ => {}
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

enum Kind {
    Number,
    Boolean,
    /// A number of bytes.
    Size,
}

/// Returns what belongs to a place; the items of lists have empty names.
fn kind(path: &[&str]) -> Option<Kind> {
    match path {
        ["networks", _, "external" | "internal" | "attachable"]
        | ["volumes" | "secrets" | "configs", _, "external"] => Some(Kind::Boolean),
        ["services", _, rest @ ..] => match rest {
            ["init" | "read_only"]
            | ["healthcheck", "disable"]
            | ["volumes", "", "read_only"]
            | ["volumes", "", "volume", "nocopy"]
            | ["depends_on", _, "required" | "restart"]
            | ["env_file", "", "required"] => Some(Kind::Boolean),
            ["volumes", "", "tmpfs", "size"] => Some(Kind::Size),
            ["healthcheck", "retries"]
            | ["ports", "", "target" | "published"]
            | ["volumes", "", "tmpfs", "mode"]
            | ["secrets" | "configs", "", "mode"]
            | ["ulimits", _]
            | ["ulimits", _, "soft" | "hard"]
            | ["deploy", "replicas"]
            | ["deploy", "update_config" | "rollback_config", "parallelism" | "max_failure_ratio"]
            | ["deploy", "restart_policy", "max_attempts"]
            | ["deploy", "placement", "max_replicas_per_node"]
            | ["deploy", "resources", "limits", "pids"] => Some(Kind::Number),
            _ => None,
        },
        _ => None,
    }
}
