//! Finds the programs that tests start, and says how to install missing ones.

use std::path::PathBuf;

/// The advice when a program is missing.
const INSTRUCTIONS: &str = "run `make test`, which puts it in place, or `make test-setup` once and \
                            the test runner of your choice after that";

/// The root of the repository where the tests run, which may not be where they were built.
pub fn repository() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into())
        .into()
}

/// Python with the packages of `requirements-test.txt`.
pub fn python() -> PathBuf {
    virtual_environment_tool("python")
}

/// A program from a package of `requirements-test.txt`, such as `buf`.
pub fn virtual_environment_tool(name: &str) -> PathBuf {
    let path = repository().join(".venv/bin").join(name);
    assert!(path.exists(), "there is no {path:?}: {INSTRUCTIONS}");
    path
}

/// Node, once its packages are installed.
pub fn node() -> PathBuf {
    let packages = repository().join("tests/interop/node/node_modules");
    assert!(
        packages.exists(),
        "there is no {packages:?}: {INSTRUCTIONS}"
    );
    virtual_environment_tool("node")
}

/// The database server: `WEIR_TEST_SECANTUSD`, else the virtual environment's, else the one on the
/// PATH.
pub fn database_server() -> PathBuf {
    if let Some(path) = std::env::var_os("WEIR_TEST_SECANTUSD") {
        let path = PathBuf::from(path);
        assert!(
            path.exists(),
            "WEIR_TEST_SECANTUSD names {path:?}, which does not exist"
        );
        return path;
    }
    let installed = repository().join(".venv/bin/secantusd-py");
    if installed.exists() {
        return installed;
    }
    on_path("secantusd-py").unwrap_or_else(|| {
        panic!(
            "there is no database to test with, neither {installed:?} nor secantusd-py on the \
             PATH: {INSTRUCTIONS}; or name a server in WEIR_TEST_SECANTUSD, or the URI of a \
             running MongoDB replica set in WEIR_TEST_MONGODB_URI"
        )
    })
}

/// A program of Debian's package `prometheus`: the PATH's, else the one that `make test` unpacked.
pub fn program(name: &str) -> PathBuf {
    let unpacked = repository().join(".tools/prometheus/usr/bin").join(name);
    on_path(name)
        .or_else(|| Some(unpacked).filter(|path| path.exists()))
        .unwrap_or_else(|| panic!("there is no {name}: {INSTRUCTIONS}"))
}

/// A program on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
