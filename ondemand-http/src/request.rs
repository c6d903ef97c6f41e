//! Parts of a request: a segment of its path, and the parameters of its query.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use ondemand_core::{Error, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::problem::Problem;

/// The one variable segment of a path.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let segment = Path::<String>::from_request_parts(parts, state).await;
        let invalid = |e: PathRejection| Error::invalid("path", e.body_text());
        segment.map(|Path(segment)| Self(segment)).map_err(|e| invalid(e).into())
    }
}

/// The parameters of a query. What is not taken is an error, so that a misspelt parameter is not passed over.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let invalid = |e: QueryRejection| Error::invalid("query", e.body_text());
        pairs.map(|Query(pairs)| Self(pairs)).map_err(|e| invalid(e).into())
    }
}

impl Parameters {
    /// Takes all values of a parameter.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect()
    }

    /// Takes the value of a parameter that may be given once.
    pub(crate) fn one<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>> {
        let mut values = self.all(name);
        let value = values.pop();
        if !values.is_empty() {
            return Err(Error::invalid(format!("query parameter {name}"), "it is given more than once"));
        }
        let parse = |text: String| text.parse().map_err(|e| Error::invalid(format!("query parameter {name}"), e));
        value.map(parse).transpose()
    }

    /// Takes a switch: `true`, `1` or nothing after it turn it on.
    pub(crate) fn switch(&mut self, name: &str) -> Result<bool> {
        match self.one::<String>(name)?.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(Error::invalid(format!("query parameter {name}"), "it is neither true nor false")),
        }
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(80).collect();
                Err(Error::invalid("query", format!("the parameter {name:?} is unknown")))
            }
        }
    }
}

/// A moment, as RFC 3339 writes it.
#[derive(Debug)]
pub(crate) struct Moment(pub(crate) OffsetDateTime);

impl FromStr for Moment {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        // A `+` that was not escaped has become a space.
        let moment = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339);
        moment.map(Self).map_err(|e| Error::invalid("time", format!("{e}; write it as 2026-11-22T19:23:00Z")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parse(query: &str) -> Parameters {
        let request = axum::http::Request::builder().uri(format!("/?{query}")).body(()).expect("a request");
        Parameters::from_request_parts(&mut request.into_parts().0, &()).await.expect("parameters")
    }

    #[tokio::test]
    async fn parameters_are_taken_by_name() {
        let mut query = parse("role=a&tail=5&role=b%20c&follow&x=1").await;
        assert_eq!(query.all("role"), ["a", "b c"]);
        assert_eq!(query.one::<usize>("tail").expect("a number"), Some(5));
        assert_eq!(query.one::<usize>("tail").expect("nothing"), None);
        assert!(query.switch("follow").expect("a switch"));
        assert!(!query.switch("follow").expect("no switch"));
        assert!(query.finish().expect_err("a rest").to_string().contains("\"x\""));
    }

    #[tokio::test]
    async fn bad_parameters_are_named() {
        for query in ["tail=many", "tail=1&tail=2", "tail=-1"] {
            let error = parse(query).await.one::<usize>("tail").expect_err("a bad number");
            assert!(error.to_string().contains("tail"), "{error}");
        }
        assert!(parse("follow=maybe").await.switch("follow").is_err());
    }
}
