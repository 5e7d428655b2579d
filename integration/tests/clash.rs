//! Several sites change one thing, none having seen the other: afterwards all trees are equal, and go on replicating.
//!
//! Which side wins is not asked here, only that all agree.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::seed::Seed;

type Change = dyn Fn(&Path, usize) -> std::io::Result<()>;

/// Prepares a directory, cuts the links, lets every site make its change in it, heals, and demands equal trees.
fn clash(cluster: &Cluster, name: &str, prepare: &dyn Fn(&Path) -> std::io::Result<()>, change: &Change) {
    eprintln!("clash: {name}");
    let at = |site: usize| cluster.site(site).path(name);
    fs::create_dir(at(0)).unwrap();
    prepare(&at(0)).unwrap();
    cluster.assert_converges();
    cluster.network().cut_all();
    for site in 0..cluster.sites().len() {
        change(&at(site), site).unwrap_or_else(|e| panic!("{name} at site {site}: {e}"));
        // The clocks of the sites are one here: keep the order of the changes plain.
        thread::sleep(Duration::from_millis(2));
    }
    cluster.network().heal_all();
    cluster.assert_converges();
    // Not stuck: what comes afterwards arrives, from each site.
    for site in 0..cluster.sites().len() {
        fs::write(cluster.site(site).path(format!("after {name} from {site}")), name).unwrap();
    }
    cluster.assert_converges();
}

fn nothing(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// What every site does in each clash; `first` is the one that does the other thing, where two differ.
fn every_clash(sites: usize) {
    let cluster = Cluster::start(sites, Options::default());
    let one_file = |dir: &Path| fs::write(dir.join("f"), "before");
    let two_dirs = |dir: &Path| {
        fs::create_dir(dir.join("a"))?;
        fs::create_dir(dir.join("b"))?;
        fs::write(dir.join("a/in-a"), "a")?;
        fs::write(dir.join("b/in-b"), "b")
    };
    let check = |name: &str, prepare: &dyn Fn(&Path) -> std::io::Result<()>, change: &Change| {
        clash(&cluster, name, prepare, change);
    };
    check("create one name", &nothing, &|dir, site| {
        fs::write(dir.join("same"), format!("from {site}").repeat(site + 1))
    });
    check("mkdir one name", &nothing, &|dir, site| {
        fs::create_dir(dir.join("same"))?;
        fs::write(dir.join("same").join(format!("child-{site}")), "x")
    });
    check("file and directory of one name", &nothing, &|dir, site| match site {
        0 => fs::write(dir.join("same"), "file"),
        _ => fs::create_dir(dir.join("same")),
    });
    check("write one file", &one_file, &|dir, site| {
        fs::write(dir.join("f"), format!("{site}").repeat(5000 * (site + 1)))
    });
    check("append to one file", &one_file, &|dir, site| {
        use std::io::Write;
        fs::OpenOptions::new().append(true).open(dir.join("f"))?.write_all(format!("site {site}").as_bytes())
    });
    check("write and remove", &one_file, &|dir, site| match site {
        0 => fs::remove_file(dir.join("f")),
        _ => fs::write(dir.join("f"), "rewritten"),
    });
    check("rename and remove", &one_file, &|dir, site| match site {
        0 => fs::remove_file(dir.join("f")),
        _ => fs::rename(dir.join("f"), dir.join("g")),
    });
    check("remove at both", &one_file, &|dir, _| fs::remove_file(dir.join("f")));
    check("rename to two names", &one_file, &|dir, site| fs::rename(dir.join("f"), dir.join(format!("to-{site}"))));
    check("rename two onto one name", &two_dirs, &|dir, site| match site {
        0 => fs::rename(dir.join("a/in-a"), dir.join("target")),
        _ => fs::rename(dir.join("b/in-b"), dir.join("target")),
    });
    check("move into each other", &two_dirs, &|dir, site| match site {
        0 => fs::rename(dir.join("a"), dir.join("b/a")),
        _ => fs::rename(dir.join("b"), dir.join("a/b")),
    });
    check("create in and remove a directory", &two_dirs, &|dir, site| match site {
        0 => fs::remove_dir_all(dir.join("a")),
        _ => fs::write(dir.join("a/new"), "new"),
    });
    check("rename a directory to two names", &two_dirs, &|dir, site| {
        fs::write(dir.join(format!("a/by-{site}")), "x")?;
        fs::rename(dir.join("a"), dir.join(format!("a-{site}")))
    });
    check("chmod and xattr", &one_file, &|dir, site| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o600 + site as u32))?;
        let value = format!("{site}");
        Ok(rustix::fs::setxattr(dir.join("f"), "user.k", value.as_bytes(), rustix::fs::XattrFlags::empty())?)
    });
    check("link and unlink", &one_file, &|dir, site| match site {
        0 => fs::remove_file(dir.join("f")),
        _ => fs::hard_link(dir.join("f"), dir.join(format!("name-{site}"))),
    });
    check("truncate and write", &one_file, &|dir, site| match site {
        0 => fs::OpenOptions::new().write(true).open(dir.join("f"))?.set_len(2),
        _ => fs::write(dir.join("f"), "much longer than before"),
    });
}

#[test]
fn two_sites_agree_after_every_clash() {
    every_clash(2);
}

#[test]
fn three_sites_agree_after_every_clash() {
    every_clash(3);
}

/// Random changes of the same few names at all sites while they can't talk.
#[test]
fn sites_agree_after_random_clashes() {
    let first = Seed::from_env("SYNCLINE_TEST_SEED");
    let mut seed = Seed::new(first);
    let cluster = Cluster::start(3, Options::default());
    for round in 0..6 {
        cluster.network().cut_all();
        for step in 0..60 {
            let site = cluster.site(seed.below(3) as usize);
            let mut name = || format!("n{}", seed.below(6));
            let (one, other) = (site.path(name()), site.path(name()));
            let inside = one.join(name());
            // Most of these fail now and then, as they should: only the end counts.
            let _ = match seed.below(9) {
                0 => fs::create_dir(&one),
                1 => fs::write(&one, format!("{round} {step}")),
                2 => fs::write(&inside, format!("{round} {step}")),
                3 => fs::rename(&one, &other),
                4 => fs::rename(&one, &inside),
                5 => fs::rename(&inside, &other),
                6 => fs::remove_file(&one),
                7 => fs::remove_dir_all(&one),
                _ => fs::hard_link(&one, &other),
            };
        }
        cluster.network().heal_all();
        cluster.wait_level();
        eprintln!("round {round} of seed {first}");
        cluster.assert_equal();
    }
}
