//! `env-on-demand`: the command line that users already know. Its words, its options and what it prints are a contract; `ondemand env` is the same
//! with more manners.

use std::fmt::Write;

use ondemand_http::wire::{Environment, EnvironmentDone};
use reqwest::{Method, Url};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::command::env::segment;
use crate::failure::Failure;
use crate::output;
use crate::token::Token;
use options::{Word, parse};

mod options;

/// Where the server is, unless `ENV_ON_DEMAND_URL` or `ONDEMAND_URL` says it.
const URL: &str = "http://envondemand.dev.internal:8080";

const HELP: &str = "\
Usage:
  env-on-demand [create|delete|details|list|logs]

Options:
  --help:            prints this help
  create:            create a new environment
  list:              list environments
  delete:            delete an environment
  logs:              get logs of your environment
  details:           get info of your environment
";

const CREATE_HELP: &str = "\
Usage:
  env-on-demand create OPTIONS

Options:
  --help:                prints this help
  --github-token:        some github token ( please see https://github.com/settings/tokens )
  --with-fixtures        use fixtures instead of dump data
  --keep-days            number of days the environment should be up for
  --name                 personnalize the name of your environment

  --github-back:         github back repo you want to deploy
  --github-back-branch:  github branch you want to deploy

  --github-front:        github front repo you want to deploy
  --github-front-branch: github branch you want to deploy
";

const NAMED_HELP: &str = "\
Options:
  --help:                prints this help
  --github-token:        some github token ( please see https://github.com/settings/tokens )
  --name                 the name of your environment
";

const LOGS_HELP: &str = "\
  --service              only this service
  --tail                 only the last so many lines
  --follow               wait for more
";

/// What `create` takes, in the order it is shown.
const CREATE: &[Word] = &[
    Word::value("name"),
    Word::value("github-token"),
    Word::switch("with-fixtures"),
    Word::number("keep-days"),
    Word::value("github-back"),
    Word::value("github-back-branch"),
    Word::value("github-front"),
    Word::value("github-front-branch"),
];

const NAMED: &[Word] = &[Word::value("name"), Word::value("github-token")];

const LOGS: &[Word] = &[
    Word::value("name"),
    Word::value("github-token"),
    Word::value("service"),
    Word::number("tail"),
    Word::switch("follow"),
];

/// Does what the words say.
pub(crate) async fn run(words: Vec<String>) -> Result<(), Failure> {
    let Some((command, rest)) = words.split_first() else {
        output::note(HELP.trim_end());
        return Err(Failure::new("say what to do").with_exit(2));
    };
    let wants_help = rest.iter().any(|word| word == "--help" || word == "-h");
    match command.as_str() {
        "--help" | "-h" | "help" => output::bytes(HELP.as_bytes()),
        "create" if wants_help => output::bytes(CREATE_HELP.as_bytes()),
        "create" => create(parse(CREATE, rest)?).await,
        "list" if wants_help => output::bytes(b"Usage:\n  env-on-demand list\n"),
        "list" => list(parse(&[Word::value("github-token")], rest)?).await,
        "delete" | "details" if wants_help => {
            output::bytes(format!("Usage:\n  env-on-demand {command} OPTIONS\n\n{NAMED_HELP}").as_bytes())
        }
        "delete" => delete(parse(NAMED, rest)?).await,
        "details" => details(parse(NAMED, rest)?).await,
        "logs" if wants_help => {
            output::bytes(format!("Usage:\n  env-on-demand logs OPTIONS\n\n{NAMED_HELP}{LOGS_HELP}").as_bytes())
        }
        "logs" => logs(parse(LOGS, rest)?).await,
        other => Err(Failure::new(format!("{other:?} is none of create, delete, details, list, logs")).with_exit(2)),
    }
}

async fn create(mut body: Map<String, Value>) -> Result<(), Failure> {
    let token = token(&mut body);
    if let Some(Token { text, .. }) = &token {
        body.insert("github-token".into(), text.expose().into());
    }
    let client = client(token)?.with_token_in_body();
    note_sending("POST", Some(&body), &["envs"]);
    let done: EnvironmentDone = client.post(&["envs"], &body).await?;
    output::json(&done)
}

async fn list(mut options: Map<String, Value>) -> Result<(), Failure> {
    let client = client(token(&mut options))?;
    note_sending("GET", None, &["envs"]);
    output::json(&client.get::<Vec<String>>(&["envs"]).await?)
}

async fn details(mut options: Map<String, Value>) -> Result<(), Failure> {
    let (client, name) = (client(token(&mut options))?, name(&options)?);
    note_sending("GET", None, &["envs", &name]);
    output::json(&client.get::<Environment>(&["envs", segment(&name)?]).await?)
}

async fn delete(mut options: Map<String, Value>) -> Result<(), Failure> {
    let (client, name) = (client(token(&mut options))?, name(&options)?);
    note_sending("DELETE", None, &["envs", &name]);
    output::json(&client.delete::<EnvironmentDone>(&["envs", segment(&name)?]).await?)
}

async fn logs(mut options: Map<String, Value>) -> Result<(), Failure> {
    let (client, name) = (client(token(&mut options))?, name(&options)?);
    note_sending("GET", None, &["envs", &name, "logs"]);
    let query: Vec<_> = ["service", "tail", "follow"]
        .into_iter()
        .filter_map(|key| Some((key, options.get(key)?)))
        .map(|(key, value)| (key, value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)))
        .collect();
    let request = client.request(Method::GET, &["envs", segment(&name)?, "logs"]).query(&query);
    output::copy(&client, client.send(request).await?).await
}

/// Takes the token: an option, or the variable that other tools know.
fn token(options: &mut Map<String, Value>) -> Option<Token> {
    let given = options.remove("github-token").and_then(|token| token.as_str().map(ToOwned::to_owned));
    given.or_else(|| std::env::var("GITHUB_TOKEN").ok()).as_deref().and_then(Token::github)
}

fn name(options: &Map<String, Value>) -> Result<String, Failure> {
    let name = options.get("name").and_then(Value::as_str);
    name.map(ToOwned::to_owned).ok_or_else(|| Failure::new("say which environment, with --name").with_exit(2))
}

/// Makes a client. The server's own token is none of what this program sends: its users are those of GitHub, and whoever runs the server has
/// `ondemand env`.
fn client(token: Option<Token>) -> Result<Client, Failure> {
    Ok(Client::with_token(&url(), token)?.without_own_token())
}

fn url() -> String {
    let set = |name| std::env::var(name).ok().filter(|url| !url.is_empty());
    set("ENV_ON_DEMAND_URL").or_else(|| set("ONDEMAND_URL")).unwrap_or_else(|| URL.to_owned())
}

/// Says what is sent, for people.
fn note_sending(method: &str, body: Option<&Map<String, Value>>, segments: &[&str]) {
    let body = body.map(|body| format!("{} ", written(body))).unwrap_or_default();
    let url = masked(url());
    output::note(format_args!("Sending {method} {body}to {}/{}", url.trim_end_matches('/'), segments.join("/")));
}

/// Returns a URL as it may be shown: without the password in it, or a name alone, which may be a token.
fn masked(url: String) -> String {
    let Ok(mut shown) = Url::parse(&url) else { return url };
    let hidden = match (shown.password(), shown.username()) {
        (Some(_), _) => shown.set_password(Some("****")),
        (None, "") => return url,
        (None, _) => shown.set_username("****"),
    };
    // A URL of a host takes both.
    if hidden.is_ok() { shown.into() } else { "the server".into() }
}

/// Writes a body as users know it. The token is masked; how long it is kept was never among it.
fn written(body: &Map<String, Value>) -> String {
    let mut text = String::from("{");
    let shown = CREATE.iter().filter(|option| option.name != "keep-days");
    let shown = shown.filter_map(|option| Some((option, body.get(option.name)?)));
    for (at, (option, value)) in shown.enumerate() {
        let value = if option.name == "github-token" { "\"****\"".to_owned() } else { value.to_string() };
        // Writing to a String cannot fail.
        let _ = write!(text, "{}\"{}\"=>{value}", if at == 0 { "" } else { ", " }, option.name);
    }
    text + "}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_written_as_users_know_it() {
        let words = ["--name", "demo", "--github-token", "s3cret", "--keep-days", "1", "--with-fixtures"];
        let body = parse(CREATE, &words.map(ToOwned::to_owned)).expect("options");
        let text = written(&body);
        assert_eq!(text, r#"{"name"=>"demo", "github-token"=>"****", "with-fixtures"=>true}"#);
        assert_eq!(body["keep-days"], 1, "and it is sent");
    }
}
