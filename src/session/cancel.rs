//! Cancel requests: ours in, the server's out.

use crate::wire::startup::CancelRequest;

use super::{Context, Stage};

/// Carries a cancel request out. It reaches the query that runs at this moment, or none: a client
/// between queries has nothing to cancel, and the server is not given to anybody else before the
/// request has arrived. There is never an answer (PostgreSQL manual, 55.2.8).
pub(super) async fn carry_out(context: &Context, request: &CancelRequest) {
    let Some(client) = context.clients.named_by(request) else {
        tracing::info!("cancel request with an unknown key");
        return;
    };
    match client.stage() {
        Stage::Linked => {
            if let Some((server, in_flight)) = client.running() {
                tracing::debug!(client = client.id, "forwarding cancel request");
                context.pools.cancel_request(&server).await;
                drop(in_flight);
            }
        }
        Stage::Waiting | Stage::Console => client.cancel(),
        Stage::Login => {}
    }
}
