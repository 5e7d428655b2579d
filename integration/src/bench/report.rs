//! The figures: as JSON lines for programs, as a table for people.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::bench::rivals;
use crate::outcome::OrFail;

/// One measured thing: the values of all repetitions.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was done.
    pub work: &'static str,
    /// What of it was measured.
    pub measure: String,
    /// The unit of the values.
    pub unit: &'static str,
    /// Ours, one a repetition.
    pub ours: Vec<f64>,
    /// Plain ext4's in the same run, one a repetition; empty where it has no such thing.
    pub ext4: Vec<f64>,
    /// What the plan asks for, one a repetition; empty where it asks for nothing.
    pub bounds: Vec<Bound>,
}

/// What a value must not miss.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// A figure as it is written out.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    figure: &'a Figure,
    ours_median: Option<f64>,
    ext4_median: Option<f64>,
    ratio: Option<f64>,
    best_rival: Option<&'static str>,
    /// What the plan asks for, and in how many repetitions it was so.
    bound: Option<String>,
}

/// All figures of a run, in the order in which they first came.
pub struct Report {
    /// A smaller amount of work can't be held against a rival's time for all of it.
    scaled_down: bool,
    figures: Vec<Figure>,
    places: BTreeMap<(&'static str, String), usize>,
}

impl Report {
    /// An empty report; of less work than the rivals were measured with, if `scaled_down`.
    pub fn new(scaled_down: bool) -> Self {
        Self { scaled_down, figures: Vec::new(), places: BTreeMap::new() }
    }

    /// Adds one repetition's values.
    pub fn add(&mut self, work: &'static str, measure: &str, unit: &'static str, ours: f64, ext4: Option<f64>) {
        let place = *self.places.entry((work, measure.to_owned())).or_insert_with(|| {
            let (ours, ext4, bounds) = (Vec::new(), Vec::new(), Vec::new());
            self.figures.push(Figure { work, measure: measure.to_owned(), unit, ours, ext4, bounds });
            self.figures.len() - 1
        });
        self.figures[place].ours.push(ours);
        self.figures[place].ext4.extend(ext4);
    }

    /// Adds what the plan asks of the value that was added last.
    ///
    /// # Panics
    /// When none was.
    pub fn bound(&mut self, work: &'static str, measure: &str, bound: Bound) {
        let place = self.places.get(&(work, measure.to_owned()));
        let place = *place.or_fail(format_args!("a bound for {work}, {measure}, which was not measured"));
        self.figures[place].bounds.push(bound);
    }

    /// Writes one JSON object a line.
    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        for figure in &self.figures {
            serde_json::to_writer(&mut file, &self.line(figure))?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }

    /// The table, with medians.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<17} {:<23} {:>14} {:>12} {:>7}  best rival, or bound\n",
            "work", "measure", "ours", "ext4", "ratio"
        );
        for figure in &self.figures {
            let line = self.line(figure);
            let value = |v: Option<f64>| v.map_or("-".into(), |v| format!("{} {}", significant(v), figure.unit));
            let ratio = line.ratio.map_or("-".into(), |ratio| format!("{}x", significant(ratio)));
            let rival = line.bound.clone().or(line.best_rival.map(str::to_owned));
            let rival = rival.unwrap_or_else(|| "(not at this size)".to_owned());
            let (ours, ext4) = (value(line.ours_median), value(line.ext4_median));
            text += &format!("{:<17} {:<23} {ours:>14} {ext4:>12} {ratio:>7}  {rival}\n", figure.work, figure.measure);
        }
        text
    }

    fn line<'f>(&self, figure: &'f Figure) -> Line<'f> {
        let (ours_median, ext4_median) = (median(&figure.ours), median(&figure.ext4));
        // Within one repetition both had the same weather: so the median of the ratios, not the ratio of the medians.
        let ratios: Vec<f64> = figure.ours.iter().zip(&figure.ext4).map(|(ours, ext4)| ours / ext4).collect();
        let best_rival = (!self.scaled_down).then(|| rivals::best(figure.work, &figure.measure));
        Line { figure, ours_median, ext4_median, ratio: median(&ratios), best_rival, bound: verdict(figure) }
    }
}

/// `at most 0.53 ms: held in 2 of 3`; the median of the bounds, and each repetition's value against its own.
fn verdict(figure: &Figure) -> Option<String> {
    let (mut word, mut limits, mut held) = ("", Vec::new(), 0);
    for (ours, bound) in figure.ours.iter().zip(&figure.bounds) {
        let (name, limit, holds) = match *bound {
            Bound::AtMost(limit) => ("at most", limit, *ours <= limit),
            Bound::AtLeast(limit) => ("at least", limit, *ours >= limit),
        };
        word = name;
        limits.push(limit);
        held += u32::from(holds);
    }
    let limit = significant(median(&limits)?);
    Some(format!("{word} {limit} {}: held in {held} of {}", figure.unit, limits.len()))
}

fn significant(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 6) };
    format!("{value:.*}", digits as usize)
}

/// The middle value; of an even number of values the lower one, which was measured.
pub fn median(values: &[f64]) -> Option<f64> {
    percentile(values, 50.0)
}

/// The smallest value that at least `percent` of the values don't exceed.
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Durations in milliseconds.
pub fn milliseconds(durations: &[Duration]) -> Vec<f64> {
    durations.iter().map(|d| d.as_secs_f64() * 1000.0).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percentiles() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(median(&values), Some(50.0));
        assert_eq!(percentile(&values, 99.0), Some(99.0));
        assert_eq!(percentile(&values, 100.0), Some(100.0));
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn figures_stand_beside_ext4_and_the_rival() {
        let mut report = Report::new(false);
        for (ours, ext4) in [(1.0, 0.5), (3.0, 1.0), (2.0, 1.0)] {
            report.add("large file", "written", "s", ours, Some(ext4));
        }
        report.add("lag", "p50", "ms", 12.345, None);
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].contains("2.00 s") && lines[1].contains("1.00 s") && lines[1].contains("2.00x"), "{table}");
        assert!(lines[1].contains("Syncthing"), "{table}");
        assert!(lines[2].contains("12.3 ms") && lines[2].contains("561 ms"), "{table}");
        for (ours, limit) in [(1.0, 2.0), (3.0, 2.5)] {
            report.add("sync append", "p50", "ms", ours, None);
            report.bound("sync append", "p50", Bound::AtMost(limit));
        }
        let table = report.table();
        assert!(table.lines().nth(3).unwrap().contains("at most 2.00 ms: held in 1 of 2"), "{table}");
        let path = tempfile::NamedTempFile::new().unwrap();
        report.write_json(path.path()).unwrap();
        let text = std::fs::read_to_string(path.path()).unwrap();
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first["ratio"], 2.0);
        assert_eq!(first["ours"].as_array().unwrap().len(), 3);
    }
}
