//! The demo of the gRPC gateway: a ping-pong server, its methods over HTTP, and its stream recorded.

use std::path::Path;

use anyhow::Context;

use super::ping_pong::PingPong;
use super::{Options, end};
use crate::appliance::{self, Addresses, Running};
use crate::config::{Config, Loaded};
use crate::engine::storage_folder::LogPlaces;
use crate::grpc::descriptors::Schema;
use crate::telemetry::Output;

const PROTO: &str = include_str!("../../resources/demo/ping_pong.proto");
/// The name of the recorded stream's log.
const LOG_NAME: &str = "balls";

/// Runs until it is to end, and says on `output` what can be tried.
pub(super) async fn play(options: &Options, storage_path: &Path, output: Output) -> anyhow::Result<()> {
    let folder = tempfile::TempDir::with_prefix("sidecar-demo-").context("cannot make a temporary directory")?;
    let proto = folder.path().join("ping_pong.proto");
    std::fs::write(&proto, PROTO).context("cannot write the demo's .proto file")?;
    let schema = Schema::compile(std::slice::from_ref(&proto), &[])?;
    let server = PingPong::start(&schema).await?;
    let text = config_text(storage_path, &proto, server.address.port(), options)?;
    let Loaded { config, .. } = Config::parse(&text, |_| None)?;
    let log = LogPlaces::new(storage_path, LOG_NAME).directory();
    let started = |running: Running| output.write_lines(introduction(running.addresses, &log).as_bytes());
    appliance::run_without_casper(&config, started, end()?).await
}

fn introduction(addresses: Addresses, log: &Path) -> String {
    let [port, admin] = [addresses.grpc, addresses.admin].map(|address| address.map_or(0, |address| address.port()));
    let log = log.display();
    format!(
        "A ping-pong server plays a ball a second over gRPC. Sidecar serves its methods over HTTP, and records its stream.\n\
         \n  \
           recorded stream  http://127.0.0.1:{port}/streams/balls\n  \
           what is served   http://127.0.0.1:{port}/openapi.json\n  \
           in a browser     http://127.0.0.1:{admin}/\n  \
           metrics          http://127.0.0.1:{admin}/metrics\n  \
           log              {log}\n\
         \n\
         Try, in another terminal:\n  \
           curl -N 'http://127.0.0.1:{port}/streams/balls?start_from=0'             every ball, then what is new\n  \
           curl -N 'http://127.0.0.1:{port}/streams/balls?start_from=0&until=3'     the first four, then the end\n  \
           curl -N 'http://127.0.0.1:{port}/streams/balls?start_from=0&types=pong'  every second one\n  \
           curl -N -H 'accept: application/x-ndjson' \\\n       \
                'http://127.0.0.1:{port}/streams/balls?start_from=0'                as lines of JSON\n  \
           curl -N 'http://127.0.0.1:{port}/v1/balls/pong'                          the server's own stream, as the gateway has it\n  \
           curl -N -H 'accept: text/event-stream' \\\n       \
                'http://127.0.0.1:{port}/v1/balls/ping'                             the same for browsers\n  \
           curl 'http://127.0.0.1:{port}/v1/serve/anna?text=hello'                  one answer\n  \
           curl 'http://127.0.0.1:{admin}/metrics'                                   how everything is\n  \
           sidecar-log inspect {log}\n\
         \n\
         Ctrl-C ends it.\n"
    )
}

fn config_text(storage_path: &Path, proto: &Path, server_port: u16, options: &Options) -> anyhow::Result<String> {
    let quoted = |path: &Path| path.to_str().map(|path| toml::Value::String(path.to_owned()));
    let folder = quoted(storage_path).context("the storage path is not UTF-8")?;
    let proto = quoted(proto).context("the temporary directory is not UTF-8")?;
    let Options { grpc_port, admin_port, .. } = options;
    Ok(format!(
        "[storage]\n\
         storage_folder = {folder}\n\
         [admin_api_server]\n\
         port = {admin_port}\n\
         max_concurrent_requests = 1\n\
         max_requests_per_second = 10\n\
         [grpc]\n\
         port = {grpc_port}\n\
         [[grpc.upstreams]]\n\
         name = 'court'\n\
         address = 'http://127.0.0.1:{server_port}'\n\
         protos = [{proto}]\n\
         [[grpc.streams]]\n\
         name = '{LOG_NAME}'\n\
         upstream = 'court'\n\
         method = 'demo.v1.Events/Subscribe'\n\
         request = {{ topic = 'all' }}\n\
         path = '/streams/balls'\n\
         event_field = 'event'\n\
         event_names = ['ping', 'pong']\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::DemoDialect;

    #[test]
    fn the_demo_runs_on_a_configuration_without_warnings() {
        let options = Options {
            dialect: DemoDialect::Grpc,
            storage_path: None,
            speed: 1.0,
            sse_port: 0,
            rest_port: 0,
            admin_port: 1,
            rpc_port: 0,
            grpc_port: 2,
        };
        let text = config_text(Path::new("/tmp/a 'quoted' path"), Path::new("/tmp/x.proto"), 3, &options).unwrap();
        let Loaded { config, warnings } = Config::parse(&text, |_| None).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(config.grpc.unwrap().port.port, 2);
    }
}
