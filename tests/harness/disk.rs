//! A disk of a few megabytes under a node, to be filled to the last byte.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::privilege::{Need, require};
use super::workspace::{Workspace, give_to_server_account, run};

/// Tablespace on the small disk, for [`Holds::Tables`].
pub const TABLESPACE: &str = "small";

/// What of a node lies on the small disk. PostgreSQL survives a table that cannot grow (53100, and
/// reads go on). When WAL has no room it panics and recovers, as often as somebody writes; with
/// `restart_after_crash = off` it stays down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// The whole data directory.
    Everything,
    /// `pg_wal` alone.
    Wal,
    /// Users' tables alone: the tablespace [`TABLESPACE`], the default one of the node.
    Tables,
}

/// What [`super::node::NodeSpec::disk`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpec {
    pub holds: Holds,
    pub megabytes: u32,
}

/// A mounted tmpfs. Gone when dropped.
#[derive(Debug)]
pub struct Disk {
    pub holds: Holds,
    path: PathBuf,
    _workspace: Arc<Workspace>,
}

impl Disk {
    /// Mounted at `path`, which is made.
    pub fn mount(workspace: &Arc<Workspace>, path: PathBuf, spec: DiskSpec) -> Self {
        require(Need::Mounts);
        fs::create_dir_all(&path).expect("mkdir");
        workspace.watch_mount(&path);
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={}m,mode=0700", spec.megabytes))
            .arg("pgsluice-test")
            .arg(&path));
        give_to_server_account(&path);
        Self {
            holds: spec.holds,
            path,
            _workspace: Arc::clone(workspace),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no byte free. What the server itself gives back afterwards is free again.
    pub fn fill(&self) {
        let ballast = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("a file on the small disk");
        for size in [1 << 20, 4096, 1] {
            write_until_full(&ballast, &vec![0; size]);
        }
    }

    /// Removes what [`fill`](Self::fill) wrote.
    pub fn free(&self) {
        let _ = fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a server that was just killed may still be going.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.path)
            .stderr(Stdio::null())
            .status();
    }
}

fn write_until_full(mut file: &File, bytes: &[u8]) {
    loop {
        match file.write(bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("ballast: {error}"),
        }
    }
}
