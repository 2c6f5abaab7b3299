//! What a node's data directory holds: made, copied from another node, lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::{Node, NodeSpec, Upstream, bin};
use crate::harness::client::simple;
use crate::harness::clock::Clock;
use crate::harness::disk::{Disk, Holds, TABLESPACE};
use crate::harness::template::{initdb, template};
use crate::harness::workspace::{Workspace, as_server_account, free_port, run};

impl Node {
    /// A started server with the roles above and the empty database [`DATABASE`].
    pub async fn create(workspace: &Arc<Workspace>, spec: NodeSpec) -> Self {
        let template = template(&spec, workspace);
        let mut node = Self::place(workspace, spec);
        node.copy_data(&template);
        node.start().await;
        node.use_tablespace().await;
        node
    }

    /// A started streaming standby of `primary`, fed through the physical slot `slot`.
    pub async fn standby_of(primary: &Self, spec: NodeSpec, slot: &str) -> Self {
        let mut node = Self::place(&primary.workspace, spec);
        node.become_standby_of(primary, slot).await;
        node
    }

    /// Wiped and made anew as a standby of `primary`, under the same address: how an old primary
    /// comes back.
    pub async fn become_standby_of(&mut self, primary: &Self, slot: &str) {
        self.wipe();
        assert!(
            self.disk.is_none(),
            "both servers of a physical pair would use the same tablespace"
        );
        self.upstream = Some(self.upstream(primary, slot));
        primary.ensure_slot(slot).await;
        run(as_server_account(&bin(self.spec.release, "pg_basebackup"))
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            .args(["--slot", slot, "--dbname", &primary.link_dsn(self)])
            .arg("--pgdata")
            .arg(self.data()));
        run(as_server_account(Path::new("touch")).arg(self.data().join("standby.signal")));
        self.start().await;
    }

    /// A standby follows another primary from now on, of the same history.
    pub async fn follow(&mut self, primary: &Self, slot: &str) {
        primary.ensure_slot(slot).await;
        self.upstream = Some(self.upstream(primary, slot));
        self.write_configuration();
        if self.postmaster.is_some() {
            let client = self.connect("postgres").await;
            let reload = simple(&client, "SELECT pg_reload_conf()").await;
            reload.expect("reload");
        }
    }

    fn upstream(&self, primary: &Self, slot: &str) -> Upstream {
        let dsn = primary.link_dsn(self);
        Upstream {
            conninfo: format!("{dsn} application_name={}", self.spec.name),
            slot: slot.to_owned(),
        }
    }

    /// All data lost, and an empty server made under the same address: another system identifier,
    /// [`DATABASE`] without a table.
    pub async fn reinit(&mut self) {
        self.wipe();
        let fresh = initdb(&self.spec, &self.workspace);
        self.copy_data(&fresh);
        fs::remove_dir_all(fresh).expect("the fresh data directory");
        self.start().await;
        self.use_tablespace().await;
    }

    /// Its directory, a port, and the small disk.
    fn place(workspace: &Arc<Workspace>, spec: NodeSpec) -> Self {
        let directory = workspace.directory(spec.name);
        let disk = spec.disk.map(|disk| {
            let path = match disk.holds {
                Holds::Everything => directory.join("data"),
                Holds::Wal | Holds::Tables => directory.join("small"),
            };
            Disk::mount(workspace, path, disk)
        });
        let clock = spec.clock_error_ms;
        Self {
            port: free_port(),
            clock: clock.map(|error_ms| Clock::new(&directory, error_ms)),
            directory,
            postmaster: None,
            orphans: Vec::new(),
            upstream: None,
            disk,
            spec,
            workspace: Arc::clone(workspace),
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Fills the empty data directory from another one.
    fn copy_data(&self, from: &Path) {
        let data = self.data();
        let copy = |from: &Path, to: &Path| {
            run(Command::new("cp")
                .args(["-a", "--reflink=auto", "-T"])
                .args([from, to]));
        };
        copy(from, &data);
        if let Some(disk) = self.disk_that(Holds::Wal) {
            let wal = disk.path().join("pg_wal");
            copy(&from.join("pg_wal"), &wal);
            fs::remove_dir_all(data.join("pg_wal")).expect("pg_wal");
            std::os::unix::fs::symlink(wal, data.join("pg_wal")).expect("pg_wal");
        }
    }

    async fn use_tablespace(&self) {
        if let Some(disk) = self.disk_that(Holds::Tables) {
            let sql = format!(
                "CREATE TABLESPACE {TABLESPACE} LOCATION '{}'",
                disk.path().display()
            );
            self.query(&sql).await;
            self.query(&format!(
                "GRANT CREATE ON TABLESPACE {TABLESPACE} TO PUBLIC"
            ))
            .await;
            self.set("default_tablespace", TABLESPACE).await;
        }
    }

    pub(super) fn disk_that(&self, holds: Holds) -> Option<&Disk> {
        self.disk.as_ref().filter(|disk| disk.holds == holds)
    }

    /// Kills it, and leaves nothing of its data.
    fn wipe(&mut self) {
        self.kill9();
        self.upstream = None;
        // What is a mount point stays, and only its contents go.
        let places = [
            Some(self.data()),
            self.disk.as_ref().map(|d| d.path().to_owned()),
        ];
        for place in places.into_iter().flatten() {
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            for path in entries.map(|entry| entry.path()) {
                if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(path).expect("a directory of the old data");
                } else {
                    fs::remove_file(path).expect("a file of the old data");
                }
            }
        }
    }

    async fn ensure_slot(&self, slot: &str) {
        let exists = format!("SELECT true FROM pg_replication_slots WHERE slot_name = '{slot}'");
        if !self.holds(&exists).await {
            // Reserves WAL at once, so that the base backup finds all it needs.
            let sql = format!("SELECT pg_create_physical_replication_slot('{slot}', true)");
            self.query(&sql).await;
        }
    }
}
