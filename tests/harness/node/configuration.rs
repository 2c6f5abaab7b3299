//! The configuration of a node.

use std::fs;
use std::path::Path;

use super::{Node, Upstream, bin};
use crate::harness::address;
use crate::harness::disk::Holds;
use crate::harness::workspace::{as_server_account, run};

impl Node {
    /// Writes it for the next start or reload.
    pub(super) fn write_configuration(&self) {
        let file = self.data().join("harness.conf");
        fs::write(file, self.configuration()).expect("harness.conf");
    }

    fn configuration(&self) -> String {
        let Self {
            spec,
            port,
            directory,
            ..
        } = self;
        let on_off = |on| if on { "on" } else { "off" };
        let mut text = format!(
            "listen_addresses = '{listen}'\n\
             port = {port}\n\
             unix_socket_directories = '{}'\n\
             cluster_name = '{name}'\n\
             pgsluice_test.node = '{name}'\n\
             fsync = {fsync}\n\
             full_page_writes = {fsync}\n\
             shared_buffers = 32MB\n\
             max_connections = 120\n\
             wal_level = logical\n\
             max_wal_senders = 10\n\
             max_replication_slots = 10\n\
             max_worker_processes = 16\n\
             track_commit_timestamp = on\n\
             wal_retrieve_retry_interval = 200ms\n\
             hot_standby_feedback = on\n\
             log_line_prefix = '%m [%p] %u@%d %a '\n\
             timezone = 'UTC'\n\
             log_timezone = 'UTC'\n",
            directory.display(),
            listen = self.listen_addresses(),
            name = spec.name,
            fsync = on_off(spec.fsync),
        );
        // What a killed server leaves in /dev/shm stays there; its directory goes with the test.
        if self.disk_that(Holds::Everything).is_none() {
            text.push_str("dynamic_shared_memory_type = mmap\n");
        }
        if spec.pglogical {
            text.push_str(
                "shared_preload_libraries = 'pglogical'\n\
                 pglogical.conflict_resolution = 'last_update_wins'\n",
            );
            // Minor releases of late 2026 load no other output plugin than those listed here, and
            // pglogical then retries for ever without a word to the operator.
            let known =
                run(as_server_account(&bin(spec.release, "postgres")).arg("--describe-config"));
            if known
                .lines()
                .any(|line| line.starts_with("output_plugin_libraries\t"))
            {
                text.push_str(
                    "output_plugin_libraries = 'pgoutput, test_decoding, pglogical_output'\n",
                );
            }
        }
        if let Some(upstream) = &self.upstream {
            let Upstream { conninfo, slot } = upstream;
            text.extend(["primary_conninfo = '", conninfo, "'\n"]);
            text.extend(["primary_slot_name = '", slot, "'\n"]);
        }
        text + &spec.settings
    }

    fn listen_addresses(&self) -> String {
        let addresses = address::listen_addresses(self.number());
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        addresses.join(",")
    }
}
