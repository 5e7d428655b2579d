//! Random calls against a simple model of POSIX in memory: the same answers and errors, the same attributes and bytes after each call; with
//! crashes, closes, folds, power losses, and a replica.
//!
//! What fails is shown as the shortest sequence of steps that was found to fail. `SYNCLINE_SEED` makes one case again. The long run, an hour for
//! each of the tests, beginning with another case: `SYNCLINE_SECONDS=3600 SYNCLINE_FIRST_SEED=1000000 cargo test -p syncline-fs --test model`.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use common::calls::case::{Case, Shape, Step, With};
use common::calls::generate::Generator;
use common::shrink::shrink;
use common::{JOURNAL_FILE_BYTES, Rng, for_seeds};

/// So small that its files are used again within a short case.
const TINY_JOURNAL: u64 = 192 << 10;

enum Steps<'a> {
    /// They are noted.
    Random(&'a RefCell<Vec<Step>>),
    These(&'a [Step]),
}

fn run(shape: Shape, seed: u64, steps: Steps<'_>) {
    let mut case = Case::new(shape, seed);
    match steps {
        Steps::Random(made) => {
            let mut generator = Generator::new(Rng::new(seed), shape.max_write);
            for _ in 0..shape.steps {
                let step = case.random_step(&mut generator);
                made.borrow_mut().push(step.clone());
                case.step(&step);
            }
        }
        Steps::These(steps) => steps.iter().for_each(|step| case.step(step)),
    }
    case.finish();
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether the steps fail; what they say is not shown.
fn fails(shape: Shape, seed: u64, steps: &[Step]) -> bool {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic)
            }
        }));
    });
    QUIET.set(true);
    let failed = catch_unwind(|| run(shape, seed, Steps::These(steps))).is_err();
    QUIET.set(false);
    failed
}

fn explore(what: &str, seconds: u64, shape: impl Fn(u64) -> Shape) {
    for_seeds(what, seconds, 1, |seed| {
        let (shape, made) = (shape(seed), RefCell::default());
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(shape, seed, Steps::Random(&made)))) else { return };
        let steps = shrink(made.into_inner(), |steps| fails(shape, seed, steps));
        eprintln!("{what}, seed {seed}: these {} steps fail, with {shape:?}:", steps.len());
        steps.iter().for_each(|step| eprintln!("    {step:?}"));
        // Its own words.
        run(shape, seed, Steps::These(&steps));
        eprintln!("the steps did not fail again: it depends on the time; what failed first stands above");
        std::panic::resume_unwind(panic);
    });
}

fn short(with: With, seed: u64) -> Shape {
    let steps = [8, 16, 30, 90][seed as usize % 4];
    Shape { with, steps, max_write: 12 << 10, journal_file_bytes: TINY_JOURNAL }
}

#[test]
fn calls_do_what_they_do_in_a_simple_file_system() {
    explore("calls", 12, |seed| short(With::Crashes, seed));
}

#[test]
fn a_replica_is_as_the_simple_file_system() {
    explore("a replica", 12, |seed| short(With::Replica, seed));
}

#[test]
fn a_power_loss_leaves_what_was_synced_and_a_prefix_of_the_rest() {
    explore("power losses", 8, |seed| short(With::PowerLosses, seed));
}

/// With writes by extent, saved pieces, and a journal that is used again and again.
#[test]
fn long_writes_and_many_steps() {
    explore("many steps", 8, |seed| Shape {
        with: [With::Crashes, With::Replica, With::PowerLosses][seed as usize % 3],
        steps: 300,
        max_write: 160 << 10,
        journal_file_bytes: JOURNAL_FILE_BYTES,
    });
}
