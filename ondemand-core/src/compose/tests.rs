//! Reading, writing and translating, key by key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::orchestrator::{
    Condition, ConfigSpec, DeployMode, EndpointMode, FailureAction, NetworkAttachment, Order, Publish, PublishMode,
    RestartCondition, RunAs, SecretSpec, ServiceSpec, StopSignal, Transport, Ulimit,
};

mod keys;
mod refused;
mod round_trip;

/// Reads a document with the variables that tests use.
fn document(text: &str) -> Result<Document> {
    document_in(text, None)
}

fn document_in(text: &str, directory: Option<&Path>) -> Result<Document> {
    let variables = BTreeMap::from([("TAG".to_owned(), "1.2".to_owned()), ("COUNT".to_owned(), "3".to_owned())]);
    parse(Source { file: "shop.yml", text, directory, variables: &variables })
}

fn stack(text: &str) -> Result<StackSpec> {
    stack_of(&document(text)?)
}

fn stack_of(document: &Document) -> Result<StackSpec> {
    let attempt = AttemptId::new("0123456789abcdef").expect("an attempt");
    document.to_stack(StackName::new("demo").expect("a name"), attempt, Labels::new())
}

/// Translates one service of which these are the keys, with an image.
fn service(keys: &str) -> Result<ServiceSpec> {
    let indented = format!("    {}\n", keys.trim_end().replace('\n', "\n    "));
    let declared = "networks: {front: {}, back: {}}\nvolumes: {data: {}}\nsecrets: {token: {content: x}}\nconfigs: {conf: {content: y}}\n";
    let image = if keys.starts_with("image") { "" } else { "    image: shop\n" };
    let mut stack = stack(&format!("services:\n  back:\n{image}{indented}{declared}"))?;
    Ok(stack.services.remove(0))
}

/// Returns the line and the reason of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T>) -> (usize, String) {
    match result.expect_err("it is refused") {
        Error::InvalidTemplate { file, line, reason } => {
            assert_eq!(file, "shop.yml");
            (line, reason)
        }
        error => panic!("{error:?}"),
    }
}
