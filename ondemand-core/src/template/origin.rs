//! Which line of which file a line of rendered text came from.

use minijinja::{OutputSpan, OutputSpanKind};

use crate::compose::problem::Place;

/// The origins of all lines of a text.
#[derive(Debug)]
pub(super) struct Origins {
    /// The names that the template engine knows the files by.
    pub(super) names: Vec<String>,
    places: Vec<Place>,
}

impl Origins {
    /// Finds them. The first file is the template itself.
    pub(super) fn new(main: &str, text: &str, spans: &[OutputSpan]) -> Self {
        let mut origins = Self { names: vec![main.to_owned()], places: Vec::new() };
        let mut start = 0;
        let mut next = 0;
        for line in text.split_inclusive('\n') {
            // What is before the first word may come from elsewhere: the end of a block, and its indentation.
            let word = start + (line.len() - line.trim_start().len()).min(line.len() - 1);
            while spans.get(next).is_some_and(|span| span.output_range().end <= word) {
                next += 1;
            }
            let place = match spans.get(next) {
                Some(span) => {
                    let before = span.output_range().start.min(word);
                    let passed = match span.kind() {
                        OutputSpanKind::Raw => text[before..word].matches('\n').count(),
                        _ => 0,
                    };
                    Place { file: origins.file(span.name()), line: span.line() + passed }
                }
                None => origins.places.last().copied().unwrap_or_default(),
            };
            origins.places.push(place);
            start += line.len();
        }
        origins
    }

    fn file(&mut self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        })
    }

    /// Returns where a line came from, the first being 1.
    pub(super) fn place(&self, line: usize) -> Place {
        let last = self.places.last().copied().unwrap_or(Place { file: 0, line: 1 });
        self.places.get(line.saturating_sub(1)).copied().unwrap_or(last)
    }
}
