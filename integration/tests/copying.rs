//! What copies and walks trees: rsync, tar and cp put in and take out a tree like those that people keep, and find and du say
//! the same of it at every site.
//!
//! `SYNCLINE_COPY_FILES` and `SYNCLINE_COPY_MIB` set the amount, `SYNCLINE_SEED` replays a run.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use integration::cluster::{Cluster, Options};
use integration::compare::{Strictness, compare, report};
use integration::outcome::number_from_env;
use integration::real_tree::{Amount, make};
use integration::seed::Seed;
use integration::site::{show, succeed};

/// The tree outside the mounts that is copied.
fn original(cluster: &Cluster) -> PathBuf {
    let files = number_from_env("SYNCLINE_COPY_FILES", 1500);
    let bytes = number_from_env("SYNCLINE_COPY_MIB", 24) << 20;
    let original = cluster.directory().join("original");
    make(&original, Amount { files, bytes }, Seed::from_env("SYNCLINE_SEED")).unwrap();
    original
}

#[track_caller]
fn assert_copy(original: &Path, copy: &Path) {
    let found = compare(original, copy, Strictness::COPIES).unwrap();
    assert!(found.is_empty(), "{} is no copy of {}:\n{}", copy.display(), original.display(), report(&found, 30));
}

fn rsync(options: &[&str], from: &Path, to: &Path) -> Output {
    let mut command = Command::new("rsync");
    // Left to itself it takes times that differ within the second for equal.
    command
        .args(["-aHAX", "--numeric-ids", "--modify-window=-1"])
        .args(options)
        .arg(format!("{}/", from.display()))
        .arg(to);
    command.output().expect("rsync is needed (package rsync)")
}

/// What it says of each thing that it changed.
#[track_caller]
fn synchronise(options: &[&str], from: &Path, to: &Path) -> String {
    let output = rsync(&[&["-i"], options].concat(), from, to);
    assert!(output.status.success(), "rsync {} {}: {}", from.display(), to.display(), show(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn rsync_goes_in_and_out_with_everything() {
    let cluster = Cluster::start(2, Options::default());
    let original = original(&cluster);
    let (here, there) = (cluster.site(0).path("tree"), cluster.site(1).path("tree"));
    synchronise(&[], &original, &here);
    assert_eq!(
        synchronise(&["--checksum", "--delete", "-n"], &original, &here),
        "",
        "a second run has something to do"
    );
    cluster.assert_converges();
    assert_copy(&original, &there);
    let out = cluster.directory().join("out");
    synchronise(&[], &there, &out);
    assert_copy(&original, &out);

    // Changes are brought in at the other site, into the files themselves, and what is gone is removed.
    let changed = fs::read_dir(&original).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = changed.filter(|path| fs::symlink_metadata(path).unwrap().is_file()).collect();
    assert!(files.len() > 6, "{files:?}");
    for (number, file) in files.iter().enumerate().take(6) {
        match number % 3 {
            0 => fs::remove_file(file).unwrap(),
            1 => fs::write(file, "all new").unwrap(),
            _ => fs::rename(file, original.join(format!("moved {number}"))).unwrap(),
        }
    }
    let said = synchronise(&["--inplace", "--no-whole-file", "--delete"], &original, &there);
    assert!(said.contains("*deleting") && said.contains("moved 2"), "{said}");
    cluster.assert_converges();
    assert_copy(&original, &here);
}

/// `rsync -A` of files that have no access control list works. Of one that has, it says what it could not copy, copies the rest,
/// and ends with 23.
#[test]
fn rsync_says_which_access_control_lists_it_could_not_copy() {
    let cluster = Cluster::start(2, Options::default());
    let source = cluster.directory().join("source");
    fs::create_dir(&source).unwrap();
    for name in ["plain", "listed"] {
        fs::write(source.join(name), name).unwrap();
    }
    succeed(Command::new("setfacl").args(["-m", "u:1000:r"]).arg(source.join("listed")));
    let here = cluster.site(0).path("in");
    let output = rsync(&[], &source, &here);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(23), "{}", show(&output));
    assert!(errors.contains("listed") && errors.contains("Operation not supported"), "{errors}");
    assert!(!errors.contains("plain"), "{errors}");
    cluster.assert_converges();
    for name in ["plain", "listed"] {
        assert_eq!(fs::read_to_string(cluster.site(1).path("in").join(name)).unwrap(), name);
    }
}

#[test]
fn cp_and_tar_copy_within_the_mount() {
    let cluster = Cluster::start(2, Options::default());
    let original = original(&cluster);
    let (here, there) = (&cluster.site(0).mountpoint, &cluster.site(1).mountpoint);
    succeed(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&original).arg(here.join("tree")));
    // Within it cp asks for a clone, is refused, and lets the kernel copy.
    succeed(Command::new("cp").args(["-a", "--reflink=auto"]).arg(here.join("tree")).arg(here.join("copy")));
    assert_copy(&original, &here.join("copy"));
    let packed = ["--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "--numeric-owner"];
    let archive = here.join("tree.tar");
    succeed(Command::new("tar").args(packed).arg("-cf").arg(&archive).arg("-C").arg(here).arg("tree"));
    cluster.assert_converges();

    // Unpacked at the other site, and then checked against the archive by tar itself, there and here.
    let unpacked = there.join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    succeed(Command::new("tar").args(packed).arg("-xpf").arg(there.join("tree.tar")).arg("-C").arg(&unpacked));
    cluster.assert_converges();
    for site in [here, there] {
        assert_copy(&original, &site.join("unpacked/tree"));
        succeed(Command::new("tar").arg("-df").arg(site.join("tree.tar")).arg("-C").arg(site.join("unpacked")));
    }
    // A clone for certain is refused, and nothing is left half done.
    let mut clone = Command::new("cp");
    clone.arg("--reflink=always").arg(&archive).arg(here.join("clone"));
    let output = clone.output().unwrap();
    assert!(!output.status.success(), "{}", show(&output));
    assert_eq!(fs::metadata(here.join("clone")).map_or(0, |meta| meta.len()), 0);
    cluster.assert_converges();
}

#[test]
fn find_and_du_say_the_same_at_every_site() {
    let cluster = Cluster::start(2, Options::default());
    let original = original(&cluster);
    succeed(Command::new("cp").arg("-a").arg(&original).arg(cluster.site(0).path("tree")));
    cluster.assert_converges();
    let within = |directory: &Path, program: &str, arguments: &[&str]| {
        succeed(Command::new(program).args(arguments).current_dir(directory))
    };
    let sorted = |directory: &Path, arguments: &[&str]| {
        let out = within(directory, "find", &[&["."], arguments].concat());
        let mut names: Vec<&str> = out.split('\0').collect();
        names.sort_unstable();
        names.join("\n")
    };
    let (here, there) = (cluster.site(0).path("tree"), cluster.site(1).path("tree"));
    let questions: [&[&str]; 8] = [
        &["-type", "f", "-printf", "%P %m %U %G %s %T@ %n\\0"],
        &["-type", "l", "-printf", "%P %l\\0"],
        &["-type", "d", "-empty", "-print0"],
        &["-type", "f", "-links", "+1", "-print0"],
        &["-perm", "/7000", "-print0"],
        &["-newermt", "2020-01-01", "-print0"],
        &["-size", "+100k", "-print0"],
        &["-name", "*.dat", "-size", "-1", "-print0"],
    ];
    for question in questions {
        let expected = sorted(&original, question);
        assert_eq!(sorted(&here, question), expected, "find {question:?}");
        assert_eq!(sorted(&there, question), expected, "find {question:?} at the other site");
    }
    // By device and inode number each file is counted once.
    let numbers: &[&str] = &["-printf", "%P %i\\0"];
    assert_eq!(sorted(&here, numbers), sorted(&there, numbers), "inode numbers");
    let apparent: &[&str] = &["-s", "--apparent-size", "--block-size=1"];
    let of_files = |directory: &Path| {
        within(directory, "sh", &["-c", "find . -type f -links 1 -print0 | du -c --files0-from=- -b | tail -n 1"])
    };
    assert_eq!(of_files(&here), of_files(&original), "du -b of files");
    assert_eq!(within(&here, "du", apparent), within(&there, "du", apparent), "du --apparent-size");
    assert_eq!(within(&here, "du", &["-a"]).lines().count(), within(&there, "du", &["-a"]).lines().count());
    // Holes take no space at any site.
    let blocks = |directory: &Path| -> u64 {
        let out = within(directory, "du", &["-s", "--block-size=1"]);
        out.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (used, sizes) = (blocks(&there), within(&there, "du", apparent));
    let bytes: u64 = sizes.split_whitespace().next().unwrap().parse().unwrap();
    assert!(used < bytes, "{used} bytes of blocks for {bytes} with holes in them");
    assert!(used.abs_diff(blocks(&here)) <= used / 20, "{used} bytes of blocks here, {} there", blocks(&here));
}
