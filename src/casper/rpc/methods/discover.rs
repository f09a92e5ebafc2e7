//! The servers' own description, in OpenRPC.
//!
//! The documents are the reference's, as it answers them with casper-types 6.1.0.

use serde::Serialize;
use serde_json::value::RawValue;

use super::super::bridge::{Node, Reply};
use super::super::failure::{Code, Failure};

const MAIN: &str = include_str!("../../../../resources/openrpc/main.json");
const SPECULATIVE: &str = include_str!("../../../../resources/openrpc/speculative.json");

#[derive(Serialize)]
struct DiscoverResult {
    name: &'static str,
    schema: &'static RawValue,
}

pub(super) async fn main(_node: &Node<'_>) -> Result<Reply, Failure> {
    described("OpenRPC Schema", MAIN)
}

pub(super) async fn speculative(_node: &Node<'_>) -> Result<Reply, Failure> {
    described("OpenRPC Schema for speculative exectution server", SPECULATIVE)
}

fn described(name: &'static str, schema: &'static str) -> Result<Reply, Failure> {
    let schema = serde_json::from_str(schema).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    Reply::new(&DiscoverResult { name, schema })
}
