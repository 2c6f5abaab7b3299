//! The acts in which the lead is killed.

use std::time::{Duration, Instant};

use crate::Show;
use crate::harness::ledger::{self, Outage};
use crate::harness::proxy::{CLUSTER, NamedRow};

/// What an operator is shown of a node that was gone and came back.
const COMINGS_AND_GOINGS: [&str; 4] = ["node_down", "node_recovering", "node_up", "node_recovery"];

impl Show {
    /// The lead dies, the other node takes over by itself; the dead one comes back.
    pub(crate) async fn automatic_failover(&mut self, target: &'static str) {
        self.calm("before the automatic failover").await;
        self.ready(target).await;
        let dead = self.proxy.lead().await.unwrap_or_default();
        self.screen
            .chapter(&format!("kill -9 {dead}, and nobody does anything"));
        let seen = self.last_event().await;
        let outage = self.kill("automatic failover", &dead, None).await;
        self.screen.phases(&self.report().await);
        self.tally.failed_over_by_itself(outage.first);
        self.screen.note(&format!(
            "first acknowledged write {} ms after the kill, every client served after {} ms",
            outage.first.as_millis(),
            outage.last.as_millis()
        ));
        self.expect_lead(target).await;
        self.show_clients();
        self.calm("after the automatic failover").await;
        self.come_back(&dead, target, seen).await;
    }

    /// The lead dies again, too soon for another automatic failover: an operator says who is next.
    pub(crate) async fn failover_by_an_operator(&mut self, target: &'static str) {
        self.calm("before the second kill").await;
        self.ready(target).await;
        let dead = self.proxy.lead().await.unwrap_or_default();
        let command = format!("FAILOVER {CLUSTER} TO {target} ACCEPT LOSS");
        self.screen
            .chapter(&format!("kill -9 {dead} again, then {command}"));
        let seen = self.last_event().await;
        self.kill("second kill", &dead, Some(&command)).await;
        self.tally.failovers += 1;
        self.expect_lead(target).await;
        self.show_clients();
        self.calm("after the failover").await;
        self.come_back(&dead, target, seen).await;
    }

    /// Kills the lead and waits until another node serves every client: by itself, or by `command`.
    async fn kill(&mut self, name: &str, dead: &str, command: Option<&str>) -> Outage {
        let seen = self.last_event().await;
        let victim = self.pair.node_mut(dead);
        self.workload.strike(name, || victim.kill9());
        self.screen
            .note(&format!("every process of {dead} is gone; clients wait"));
        if let Some(command) = command {
            let barred = self.event_after(seen, "failover_barred").await;
            self.screen.note(&format!("failover_barred: {barred}"));
            self.screen.busy("waiting for the operator's FAILOVER");
            match self.fail_over(command).await {
                Ok(phases) => self.screen.phases(&phases),
                Err(message) => self.fail(&format!("failover: {message}")),
            }
        }
        self.screen.busy("clients wait for the new lead");
        self.workload.outage(dead).await
    }

    /// The dead node is started again: it replicates both ways and has caught up before it is a
    /// shadow.
    async fn come_back(&mut self, dead: &str, lead: &str, seen: u64) {
        let begun = Instant::now();
        self.screen.busy(&format!("starting {dead} again"));
        let before = ledger::rows_written_by(self.pair.node(lead), dead).await;
        self.pair.node_mut(dead).start().await;
        self.pair.catch_up().await;
        let after = ledger::rows_written_by(self.pair.node(lead), dead).await;
        self.proxy.node_is(dead, "observed", "up").await;
        self.event_after(seen, "node_recovery").await;
        for event in self.events_after(seen).await {
            let about = event["node"] == dead;
            if about && COMINGS_AND_GOINGS.contains(&event["type"].as_str()) {
                let text = format!("{}: {}", event["type"], event["detail"]);
                self.screen.note(text.trim_end_matches(": "));
            }
        }
        self.expect_lead(lead).await;
        let late = after.difference(&before).copied();
        let known = self.late.len();
        self.late.extend(late);
        let what = format!(
            "{dead} is a shadow; it brought {} late writes; {lead} leads on",
            self.late.len() - known
        );
        self.screen.done("back", &what, begun.elapsed());
    }

    /// Refused for as long as the node is not known to be dead: repeated, as an operator would.
    async fn fail_over(&self, command: &str) -> Result<Vec<NamedRow>, String> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            match self.say(command).await {
                Ok(rows) => return Ok(rows),
                Err(error) if Instant::now() > deadline => return Err(error.message),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Waits until the node may become lead, in a switchover as in a failover.
    async fn ready(&mut self, target: &str) {
        self.screen.busy(&format!("{target} is checked"));
        self.proxy.ready(CLUSTER, target).await;
    }

    /// Phases of the last operation, as `SHOW SWITCHOVER` has them.
    async fn report(&self) -> Vec<NamedRow> {
        let rows = self.proxy.admin("SHOW SWITCHOVER").await;
        rows.unwrap_or_default()
    }

    async fn last_event(&self) -> u64 {
        self.proxy.events().await.last().map_or(0, id)
    }

    async fn events_after(&self, seen: u64) -> Vec<NamedRow> {
        let mut events = self.proxy.events().await;
        events.retain(|event| id(event) > seen);
        events
    }

    /// Waits for an event of that kind; gives its detail.
    async fn event_after(&self, seen: u64, kind: &str) -> String {
        let find = async || {
            let events = self.events_after(seen).await;
            events.into_iter().find(|event| event["type"] == kind)
        };
        crate::harness::eventually(kind, async || find().await.is_some()).await;
        find()
            .await
            .map_or_else(String::new, |event| event["detail"].clone())
    }
}

fn id(event: &NamedRow) -> u64 {
    event["id"].parse().unwrap_or_default()
}
