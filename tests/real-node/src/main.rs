//! Runs Sidecar beside a real node and compares the two.
//!
//! A network of one validator starts on loopback, and a sidecar with all of its servers beside it. Transfers, a contract's
//! installation and its calls are sent through the sidecar. Then every JSON-RPC method is called, and the answers, the event
//! stream and the REST server are compared with what the node itself announces. See README.md.

mod casper_client;
mod contract;
mod log;
mod methods;
mod network;
mod programs;
mod report;
mod rpc;
mod sending;
mod transactions;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use sidecar_test_support::casper_types::{PublicKey, SecretKey};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};

use network::Network;
use report::Report;
use rpc::Rpc;

/// Compares Sidecar with a real casper-node.
#[derive(Parser)]
struct Options {
    /// The casper-node to run; without it, 2.0.3 is built from its registry package.
    #[arg(long)]
    node: Option<PathBuf>,
    /// The casper-client to run; without it, 5.0.1 is built from its registry package.
    #[arg(long)]
    client: Option<PathBuf>,
    /// The sidecar to run; without it, the one of this workspace is built.
    #[arg(long)]
    sidecar: Option<PathBuf>,
}

/// What the checks work with.
struct Run {
    network: Network,
    sidecar: Sidecar,
    rpc: Rpc,
    /// An account that does not exist before it is sent something.
    user: PublicKey,
    report: Report,
}

impl Run {
    fn validator(&self) -> PublicKey {
        PublicKey::from(&self.network.accounts.validator)
    }

    fn faucet(&self) -> PublicKey {
        PublicKey::from(&self.network.accounts.faucet)
    }

    fn delegator(&self) -> PublicKey {
        PublicKey::from(&self.network.accounts.delegator)
    }
}

/// Notes the outcome of a block of statements in which `?` may be used.
macro_rules! case {
    ($run:ident, $subject:expr, $case:expr, $body:block) => {{
        let outcome = async {
            $body;
            anyhow::Ok(())
        };
        let outcome = outcome.await;
        $run.report.note($subject, $case, outcome);
    }};
}
pub(crate) use case;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let node = programs::NODE.find(options.node)?;
    let client = programs::CLIENT.find(options.client)?;
    let sidecar = programs::sidecar(options.sidecar)?;

    let network = Network::start(&node).await?;
    let (main, speculative) = (ReservedPort::new(), ReservedPort::new());
    let sidecar = configured(&network, sidecar, &main, &speculative).start().await;
    let rpc = Rpc::new(main.address(), speculative.address());
    let user = PublicKey::from(&SecretKey::generate_ed25519()?);
    let mut run = Run { network, sidecar, rpc, user, report: Report::default() };

    let sent = sending::send_everything(&mut run).await?;
    methods::check_all(&mut run, &sent).await?;
    casper_client::check(&mut run, &client).await?;
    log::check_streams(&mut run).await?;
    log::check_rest(&mut run, &sent).await?;
    log::check_without_node(&mut run, &sent).await?;
    let described: Vec<String> = run.rpc.described().map(str::to_owned).collect();
    for method in described {
        if !run.report.has_tried(&method) {
            run.report.note(&method, "tried at all", Err(anyhow::anyhow!("the document names it, nothing calls it")));
        }
    }
    println!("{}", run.report);
    Ok(if run.report.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A sidecar with all of its servers, and limits that the checks do not reach.
fn configured(network: &Network, binary: PathBuf, main: &ReservedPort, speculative: &ReservedPort) -> SidecarBuilder {
    let sse_port = network.sse().port();
    SidecarBuilder::new(binary)
        .node(network.sse())
        .replacing(&format!("rest_port = {sse_port}"), &format!("rest_port = {}", network.rest().port()))
        .rest_api()
        .admin_api()
        .rpc(main.number(), network.binary_port())
        .serving(main.address())
        .replacing("[rpc_server.main_server]\n", "[rpc_server.main_server]\nqps_limit = 1_000_000\n")
        .sections(&format!(
            "[rpc_server]\nanswer_from_log = true\nanswer_cache_bytes = 0\n\
             [rpc_server.speculative_exec_server]\nip_address = '127.0.0.1'\nport = {}\nqps_limit = 1_000_000\n\
             [rpc_server.node_client.exponential_backoff]\ninitial_delay_ms = 100\nmax_delay_ms = 1000\nmax_attempts = 3\n",
            speculative.number()
        ))
}
