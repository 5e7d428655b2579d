#![allow(clippy::unwrap_used)]

use super::*;

/// Runs `count` operations of `seed` on a plain directory and gives the model, which must fit it.
fn run(root: &Path, seed: u64, count: u64) -> Model {
    let mut model = Model::new(seed);
    for number in 0..count {
        let operation = model.decide();
        operation.run(root).unwrap_or_else(|e| panic!("operation {number}, {operation:?}: {e}"));
        model.take(&operation);
    }
    model
}

#[test]
fn fits_a_plain_directory_and_is_made_anew_from_the_seed() {
    for seed in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let model = run(dir.path(), seed, 600);
        let real = tree::read(dir.path()).unwrap();
        assert_eq!(model.differences(&real), Vec::<String>::new(), "seed {seed}");
        assert_eq!(Model::after(seed, 600).differences(&real), Vec::<String>::new(), "seed {seed}");
        assert!(real.len() > 20, "seed {seed}: only {} names", real.len());
    }
}

#[test]
fn every_kind_of_operation_is_made() {
    let mut model = Model::new(1);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3000 {
        let operation = model.decide();
        let text = format!("{operation:?}");
        seen.insert(text.split(' ').next().unwrap_or_default().to_owned());
        model.take(&operation);
    }
    assert_eq!(seen.len(), 18, "{seen:?}");
}

/// A lost operation must be noticed, unless it leaves no trace: a flush, or setting what is set already.
#[test]
fn one_lost_operation_is_noticed() {
    let mut missed = Vec::new();
    for lost in 100..160 {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut model = run(dir.path(), 5, lost);
        let operation = model.decide();
        model.take(&operation);
        if model.differences(&tree::read(dir.path()).unwrap()).is_empty() {
            missed.push(operation);
        }
    }
    let traceless = |o: &Operation| {
        matches!(
            o,
            Operation::Fsync { .. } | Operation::Chmod { .. } | Operation::Empty { .. } | Operation::SetXattr { .. }
        )
    };
    assert!(missed.iter().all(traceless) && missed.len() < 10, "{missed:?}");
}
