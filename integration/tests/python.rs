//! Python's programs: packages are installed and compiled in the mount and run at the other site, arrays are changed and read
//! through mappings.
//!
//! `SYNCLINE_ARRAY_MIB` sets the size of the arrays.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use integration::cluster::{Cluster, Options};
use integration::outcome::number_from_env;
use integration::python::{PACKAGES, Python, run};
use integration::site::succeed;

/// The packages of an environment.
fn packages(environment: &Path) -> PathBuf {
    let versions = std::fs::read_dir(environment.join("lib")).unwrap();
    let python = versions.map(|entry| entry.unwrap().path()).find(|path| path.join("site-packages").is_dir());
    python.unwrap().join("site-packages")
}

#[test]
fn pip_installs_and_the_packages_run_at_the_other_site() {
    let python = Python::get();
    let cluster = Cluster::start(2, Options::default());
    let (here, there) = (cluster.site(0).path("venv"), cluster.site(1).path("venv"));
    succeed(Command::new(&python.interpreter).args(["-m", "venv"]).arg(&here));
    let interpreter = here.join("bin/python");
    let mut install = Command::new(here.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-compile", "--find-links"]);
    succeed(install.arg(&python.wheels).args(PACKAGES));
    succeed(Command::new(&interpreter).args(["-m", "pip", "--disable-pip-version-check", "check"]));
    succeed(Command::new(&interpreter).args(["-m", "compileall", "-q", "-j", "2"]).arg(packages(&here).join("numpy")));
    let compute = "import numpy as n; print(n.linalg.inv(n.array([[2., 0.], [0., 4.]])).sum(), n.__file__)";
    let expected = |site: &Path| format!("0.75 {}\n", packages(site).join("numpy/__init__.py").display());
    assert_eq!(run(&interpreter, compute, &[]), expected(&here));
    cluster.assert_converges();

    // Its modules and shared libraries, mapped from the other mount; the compiled ones are taken as they are.
    let isolated = |script: &str| {
        let mut command = Command::new(there.join("bin/python"));
        command.args(["-c", script]).env("PYTHONDONTWRITEBYTECODE", "1");
        succeed(&mut command)
    };
    assert_eq!(isolated(compute), expected(&there));
    let stale = "import importlib.util as u, numpy, os, struct\n\
                 source = numpy.__file__\n\
                 head = open(u.cache_from_source(source), 'rb').read(16)\n\
                 print(struct.unpack('<II', head[8:]) == (int(os.stat(source).st_mtime), os.stat(source).st_size))";
    assert_eq!(isolated(stale), "True\n");

    // Removed at the other site, with everything that it brought.
    let mut remove = Command::new(there.join("bin/python"));
    remove.args(["-m", "pip", "--disable-pip-version-check", "uninstall", "--quiet", "--yes"]).args(PACKAGES);
    succeed(&mut remove);
    cluster.assert_converges();
    assert!(!packages(&here).join("numpy").exists());
}

const FILL: &str = "
import numpy, sys
from safetensors.numpy import save_file
path, mib = sys.argv[1], int(sys.argv[2])
a = numpy.lib.format.open_memmap(path + '/a.npy', mode='w+', dtype='<u4', shape=(mib << 8, 1024))
a[:] = numpy.arange(a.size, dtype='<u4').reshape(a.shape)
a.flush()
raw = numpy.memmap(path + '/raw', mode='w+', dtype='<f8', shape=(mib << 17,))
raw[::4096] = 1.5
raw.flush()
weights = {f'layer.{i}': numpy.full((mib << 4, 1024), i, dtype='<f4') for i in range(16)}
save_file(weights, path + '/model.safetensors', metadata={'step': '1'})
";

const CHANGE: &str = "
import numpy, sys
path = sys.argv[1]
a = numpy.load(path + '/a.npy', mmap_mode='r+')
a[5] += 7
a[-1, -1] = 42
a.flush()
raw = numpy.memmap(path + '/raw', mode='r+', dtype='<f8')
raw[1::2048] = numpy.pi
del raw  # not flushed: unmapping it is enough
";

const SUM: &str = "
import mmap, numpy, sys
from safetensors import safe_open
path = sys.argv[1]
a = numpy.load(path + '/a.npy', mmap_mode='r')
raw = numpy.memmap(path + '/raw', mode='r', dtype='<f8')
print(int(a.sum(dtype='u8')), int(a[5].sum(dtype='u8')), int(a[-1, -1]), float(raw.sum()), raw.size)
with safe_open(path + '/model.safetensors', framework='np') as model:
    assert model.metadata() == {'step': '1'}
    for i in range(16):
        layer = model.get_tensor(f'layer.{i}')
        assert (layer == i).all() and layer.size == len(layer) * 1024
    print(len(model.keys()), model.get_slice('layer.3')[2:4, :8].sum())
";

#[test]
fn arrays_are_changed_and_read_through_mappings() {
    let python = Python::get();
    let mib = number_from_env("SYNCLINE_ARRAY_MIB", 16);
    let cluster = Cluster::start(2, Options::default());
    let (here, there) = (&cluster.site(0).mountpoint, &cluster.site(1).mountpoint);
    let interpreter = python.interpreter.as_path();
    run(interpreter, FILL, &[here, Path::new(&mib.to_string())]);
    let filled = run(interpreter, SUM, &[here]);
    let words = mib << 18;
    let ones = (mib << 17).div_ceil(4096) as f64 * 1.5;
    assert!(filled.starts_with(&format!("{} ", words * (words - 1) / 2)), "{filled}");
    assert!(filled.contains(&format!(" {ones:.1} {}\n", mib << 17)), "{filled}");
    cluster.assert_converges();
    assert_eq!(run(interpreter, SUM, &[there]), filled);

    // In place, through mappings, at the one and then at the other.
    for (writer, reader) in [(here, there), (there, here)] {
        let before = run(interpreter, SUM, &[reader]);
        run(interpreter, CHANGE, &[writer]);
        let changed = run(interpreter, SUM, &[writer]);
        assert_ne!(changed, before);
        cluster.assert_converges();
        assert_eq!(run(interpreter, SUM, &[reader]), changed);
    }
}
