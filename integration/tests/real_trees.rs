//! Promise 5 with trees like those that people keep: what ordinary programs put in at one site is equal at the other.
//!
//! `SYNCLINE_TREE_FILES` and `SYNCLINE_TREE_MIB` set the amount, `SYNCLINE_TREE_SEED` replays a run.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use integration::cluster::{Cluster, Options};
use integration::compare::{Strictness, compare, report};
use integration::outcome::number_from_env;
use integration::real_tree::{Amount, make};
use integration::seed::Seed;
use integration::site::succeed;

/// What `rsync` would change to make the second like the first.
fn rsync_differences(from: &Path, to: &Path) -> String {
    let mut command = Command::new("rsync");
    command.args(["-aHAXS", "--checksum", "--delete", "-n", "-i"]);
    succeed(command.arg(format!("{}/", from.display())).arg(format!("{}/", to.display())))
}

#[track_caller]
fn assert_copy(original: &Path, copy: &Path) {
    let found = compare(original, copy, Strictness::COPIES).unwrap();
    assert!(found.is_empty(), "the copy in the mount differs from its original:\n{}", report(&found, 30));
}

#[test]
fn cp_and_tar_at_two_sites_give_equal_trees() {
    let seed = Seed::from_env("SYNCLINE_TREE_SEED");
    let files = number_from_env("SYNCLINE_TREE_FILES", 20_000);
    let bytes = number_from_env("SYNCLINE_TREE_MIB", 520) << 20;
    let cluster = Cluster::start(2, Options::default());
    let originals = cluster.directory().join("originals");
    std::fs::create_dir(&originals).unwrap();
    let (first, second) = (originals.join("first"), originals.join("second"));
    make(&first, Amount { files, bytes }, seed).unwrap();
    make(&second, Amount { files: files / 4, bytes: bytes / 8 }, seed ^ 1).unwrap();

    let (a, b) = (&cluster.site(0).mountpoint, &cluster.site(1).mountpoint);
    succeed(Command::new("cp").arg("-a").arg(&first).arg(a));
    let archive = originals.join("second.tar");
    let attributes = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-C"];
    let pack = ["--format=posix", "-S", "-c", "-f"];
    succeed(Command::new("tar").args(pack).arg(&archive).args(attributes).arg(&originals).arg("second"));
    succeed(Command::new("tar").args(["-x", "-p", "-f"]).arg(&archive).args(attributes).arg(b));

    cluster.wait_level();
    assert_eq!(rsync_differences(a, b), "", "rsync finds differences");
    cluster.assert_equal();
    for site in cluster.sites() {
        assert_copy(&first, &site.path("first"));
        assert_copy(&second, &site.path("second"));
    }

    succeed(Command::new("rm").arg("-rf").arg(cluster.site(1).path("first")));
    cluster.assert_converges();
    assert_eq!(std::fs::read_dir(a).unwrap().count(), 1, "what was removed at the other site is gone here");
}
