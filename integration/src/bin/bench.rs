//! Measures two sites against plain ext4 on the same machine; prints a table and writes JSON lines.

use std::path::PathBuf;

use clap::Parser;
use integration::bench::run::{Plan, Section, run};
use integration::outcome::OrFail;
use integration::reaper::{self, Debris};

/// Two sites against plain ext4. Needs root for fresh file systems and for emptying caches; build with --release.
#[derive(Parser)]
struct Arguments {
    /// A smoke run of a minute.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum)]
    only: Vec<Section>,
    /// How often each workload is done.
    #[arg(long)]
    repetitions: Option<u32>,
    /// Where to put the images of fresh file systems (three of 8 GiB).
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    images: PathBuf,
    /// Instead of fresh file systems: the stores of A and B and a directory for the baseline.
    #[arg(long, num_args = 3, value_names = ["STORE_A", "STORE_B", "BASELINE"])]
    places: Option<Vec<PathBuf>>,
    /// Where to write the figures.
    #[arg(long, default_value = "bench.jsonl")]
    output: PathBuf,
}

fn main() {
    let arguments = Arguments::parse();
    let directory = tempfile::Builder::new().prefix("syncline-bench-").tempdir_in(&arguments.images);
    let directory = directory.or_fail(format_args!("cannot use {}", arguments.images.display()));
    reaper::note(Debris::Directory(directory.path()));
    let images = directory.path().to_owned();
    let mut plan = if arguments.quick { Plan::quick(images) } else { Plan::full(images) };
    plan.repetitions = arguments.repetitions.unwrap_or(plan.repetitions).max(1);
    if !arguments.only.is_empty() {
        plan.sections = arguments.only;
    }
    plan.places = arguments.places.and_then(|places| places.try_into().ok());
    let report = run(&plan);
    report.write_json(&arguments.output).or_fail(format_args!("cannot write {}", arguments.output.display()));
    println!("{}", report.table());
    if arguments.quick {
        println!("A smoke run: the amounts are small, the figures mean little.");
    }
    println!("Figures: {}", arguments.output.display());
}
