//! What is wrong with a configuration file, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The file says something that can't be. `FILE:LINE:COLUMN: what`
    #[error("{}:{at}: {what}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where.
        at: LineColumn,
        /// What is wrong and what would be right.
        what: String,
    },
}

/// A place in a text, both counted from 1; the column in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineColumn {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl LineColumn {
    /// Of the byte `offset` of `text`.
    pub fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for LineColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Makes errors about one file.
pub struct Blame<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl Blame<'_> {
    /// `what` is wrong at `span`.
    pub fn at(&self, span: Range<usize>, what: String) -> ConfigError {
        ConfigError::Wrong { path: self.path.to_owned(), at: LineColumn::of(self.text, span.start), what }
    }

    /// What the TOML parser found.
    pub fn toml(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message();
        let what = unknown_key(message).unwrap_or_else(|| message.replace('\n', ", "));
        self.at(error.span().unwrap_or(0..0), what)
    }
}

/// serde names the unknown key and all valid ones, each between backticks: says which of them was likely meant.
fn unknown_key(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let valid: Vec<&str> = quoted.collect();
    let nearest = valid.iter().min_by_key(|name| distance(unknown, name))?;
    if distance(unknown, nearest) <= unknown.len().max(nearest.len()) / 2 {
        return Some(format!("unknown key `{unknown}`; did you mean `{nearest}`?"));
    }
    Some(format!("unknown key `{unknown}`; valid here: {}", valid.join(", ")))
}

/// How many characters must be inserted, removed or replaced to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in
            [("", "", 0), ("abc", "abc", 0), ("lisen", "listen", 1), ("kitten", "sitting", 3), ("", "ab", 2)]
        {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn columns_count_characters() {
        let text = "a\nüö = 1";
        assert_eq!(LineColumn::of(text, 0), LineColumn { line: 1, column: 1 });
        assert_eq!(LineColumn::of(text, text.find('=').unwrap_or(0)), LineColumn { line: 2, column: 4 });
        assert_eq!(LineColumn::of(text, 999), LineColumn { line: 2, column: 7 });
    }
}
