//! The simulated node's binary port, for the demo's JSON-RPC.
//!
//! The recording flows in; what was recorded of blocks and transactions flows out as a node answers it, as soon as the
//! event stream has said it. What a recording of events cannot hold, such as the global state, is answered as unsupported.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use casper_binary_port::{CommandHeader, ErrorCode, InformationRequestTag, ResponseType};
use casper_types::bytesrepr::{self, FromBytes, ToBytes};
use casper_types::{
    AvailableBlockRange, Block, BlockHash, BlockIdentifier, BlockSignatures, BlockSignaturesV2,
    BlockSynchronizerStatus, BlockWithSignatures, ChainNameDigest, Digest, ExecutionInfo, FinalitySignature,
    NextUpgrade, Peers, ProtocolVersion, PublicKey, TimeDiff, Timestamp, Transaction, TransactionHash,
};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::casper::rpc::Event;

/// The longest request that is read.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// The command and the kind of a request for information.
const GET_INFORMATION: [u8; 2] = [0, 1];

/// What was recorded, by what it is asked for under. Each thing carries the number of the event that said it.
struct Chain {
    blocks: Vec<(usize, BlockWithSignatures)>,
    by_hash: HashMap<BlockHash, usize>,
    by_height: HashMap<u64, usize>,
    transactions: HashMap<TransactionHash, (usize, Transaction)>,
    executions: HashMap<TransactionHash, (usize, ExecutionInfo)>,
    status: Status,
}

/// The parts of the recorded status that do not follow from the blocks.
#[derive(Deserialize)]
struct Status {
    build_version: String,
    chainspec_name: String,
    starting_state_root_hash: Digest,
    our_public_signing_key: Option<PublicKey>,
}

/// Answers on a free port of the loopback interface, once it has read the recorded `payloads`.
pub(super) async fn start(
    payloads: Vec<String>,
    status: &'static str,
    said: watch::Receiver<usize>,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot open a port for the node")?;
    let address = listener.local_addr()?;
    let status = serde_json::from_str(status).context("the recorded status cannot be read")?;
    tokio::spawn(async move {
        let Ok(chain) = tokio::task::spawn_blocking(move || Chain::read(&payloads, status)).await else { return };
        let chain = Arc::new(chain);
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&chain), said.clone()));
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream, chain: Arc<Chain>, said: watch::Receiver<usize>) -> Option<()> {
    let mut buffer = BytesMut::new();
    loop {
        let length = buffer.first_chunk().map(|length| u32::from_le_bytes(*length)).map(usize::try_from);
        match length {
            Some(Ok(length)) if length > REQUEST_BYTES_MAX => return None,
            Some(Ok(length)) if buffer.len() >= 4 + length => {
                let frame = buffer.split_to(4 + length).freeze();
                let now = *said.borrow();
                stream.write_all(&envelope(&frame, chain.answer(&frame, now))).await.ok()?;
            }
            _ => {
                buffer.reserve(4096);
                (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
            }
        }
    }
}

/// What is answered: a value in bytes, nothing, or an error.
type Answer = Result<Option<(ResponseType, Vec<u8>)>, ErrorCode>;

/// An answer as a frame, with the request that it is for.
fn envelope(frame: &Bytes, answer: Answer) -> Vec<u8> {
    let (error, value) = match answer {
        Ok(value) => (ErrorCode::NoError, value),
        Err(error) => (error, None),
    };
    let mut payload = Vec::new();
    payload.put_u32_le(u32::try_from(frame.len()).unwrap_or_default());
    payload.extend(frame);
    payload.put_u16_le(CommandHeader::HEADER_VERSION);
    payload.put_u16_le(error as u16);
    let bytes = match value {
        Some((kind, bytes)) => {
            payload.extend([1, kind as u8]);
            bytes
        }
        None => {
            payload.push(0);
            Vec::new()
        }
    };
    payload.put_u32_le(u32::try_from(bytes.len()).unwrap_or_default());
    payload.extend(bytes);
    let mut framed = Vec::with_capacity(payload.len() + 4);
    framed.put_u32_le(u32::try_from(payload.len()).unwrap_or_default());
    framed.extend(payload);
    framed
}

fn found(kind: ResponseType, value: &impl ToBytes) -> Answer {
    let bytes = value.to_bytes().map_err(|_| ErrorCode::InternalError)?;
    Ok(Some((kind, bytes)))
}

/// A request's arguments, read as one value.
fn argument<T: FromBytes>(arguments: &[u8]) -> Result<T, ErrorCode> {
    bytesrepr::deserialize_from_slice(arguments).map_err(|_| ErrorCode::MalformedInformationRequest)
}

impl Chain {
    fn read(payloads: &[String], status: Status) -> Chain {
        let mut chain = Chain {
            blocks: Vec::new(),
            by_hash: HashMap::new(),
            by_height: HashMap::new(),
            transactions: HashMap::new(),
            executions: HashMap::new(),
            status,
        };
        let network = ChainNameDigest::from_chain_name(&chain.status.chainspec_name);
        let event = |(number, payload): (usize, &String)| Some((number, serde_json::from_str::<Event>(payload).ok()?));
        let events: Vec<_> = payloads.iter().enumerate().filter_map(event).collect();
        let mut signatures: HashMap<BlockHash, BlockSignaturesV2> = HashMap::new();
        for (_, event) in &events {
            if let Event::FinalitySignature(FinalitySignature::V2(signature)) = event {
                let (hash, height, era) = (*signature.block_hash(), signature.block_height(), signature.era_id());
                let of_block = signatures.entry(hash);
                let of_block = of_block.or_insert_with(|| BlockSignaturesV2::new(hash, height, era, network));
                of_block.insert_signature(signature.public_key().clone(), *signature.signature());
            }
        }
        for (number, event) in events {
            match event {
                Event::BlockAdded { block } => {
                    let (hash, height) = (*block.hash(), block.height());
                    let none = || BlockSignaturesV2::new(hash, height, block.era_id(), network);
                    let signatures = signatures.remove(&hash).unwrap_or_else(none);
                    chain.by_hash.insert(hash, chain.blocks.len());
                    chain.by_height.insert(height, chain.blocks.len());
                    let signatures = BlockSignatures::V2(signatures);
                    chain.blocks.push((number, BlockWithSignatures::new(block, signatures)));
                }
                Event::TransactionAccepted(transaction) => {
                    chain.transactions.insert(transaction.hash(), (number, transaction));
                }
                Event::TransactionProcessed { transaction_hash, block_hash, execution_result } => {
                    let Some(block_height) = chain.block_of(&block_hash).map(Block::height) else { continue };
                    let execution_result = Some(execution_result);
                    let info = ExecutionInfo { block_hash, block_height, execution_result };
                    chain.executions.insert(transaction_hash, (number, info));
                }
                Event::FinalitySignature(_) => {}
            }
        }
        chain
    }

    fn block_of(&self, hash: &BlockHash) -> Option<&Block> {
        let (_, block) = self.blocks.get(*self.by_hash.get(hash)?)?;
        Some(block.block())
    }

    /// The blocks that have been said when so many events have.
    fn said(&self, now: usize) -> &[(usize, BlockWithSignatures)] {
        self.blocks.get(..self.blocks.partition_point(|(number, _)| *number < now)).unwrap_or_default()
    }

    fn block(&self, identifier: Option<BlockIdentifier>, now: usize) -> Option<&BlockWithSignatures> {
        let said = self.said(now);
        let place = match identifier {
            Some(BlockIdentifier::Hash(hash)) => *self.by_hash.get(&hash)?,
            Some(BlockIdentifier::Height(height)) => *self.by_height.get(&height)?,
            None => said.len().checked_sub(1)?,
        };
        said.get(place).map(|(_, block)| block)
    }

    fn answer(&self, frame: &Bytes, now: usize) -> Answer {
        let mut request = frame.slice(4..);
        let version = request.try_get_u16_le().map_err(|_| ErrorCode::MalformedCommandHeader)?;
        if version != CommandHeader::HEADER_VERSION {
            return Err(ErrorCode::CommandHeaderVersionMismatch);
        }
        let (Ok(command), Ok(_), Ok(kind)) = (request.try_get_u8(), request.try_get_u16_le(), request.try_get_u8())
        else {
            return Err(ErrorCode::MalformedCommandHeader);
        };
        let tag = request.try_get_u16_le().ok().and_then(|tag| InformationRequestTag::try_from(tag).ok());
        let Some(tag) = tag.filter(|_| [command, kind] == GET_INFORMATION) else {
            return Err(ErrorCode::FunctionDisabled);
        };
        let arguments: bytesrepr::Bytes = argument(&request)?;
        self.information(tag, &arguments, now)
    }

    fn information(&self, tag: InformationRequestTag, arguments: &[u8], now: usize) -> Answer {
        match tag {
            InformationRequestTag::ProtocolVersion => found(ResponseType::ProtocolVersion, &VERSION),
            InformationRequestTag::Peers => {
                found(ResponseType::Peers, &Peers::from(std::collections::BTreeMap::<String, String>::new()))
            }
            InformationRequestTag::AvailableBlockRange => {
                found(ResponseType::AvailableBlockRange, &self.available_blocks(now))
            }
            InformationRequestTag::BlockWithSignatures => match self.block(argument(arguments)?, now) {
                Some(block) => found(ResponseType::BlockWithSignatures, block),
                None => Ok(None),
            },
            InformationRequestTag::BlockHeader => match self.block(argument(arguments)?, now) {
                Some(block) => found(ResponseType::BlockHeader, &block.block().clone_header()),
                None => Ok(None),
            },
            InformationRequestTag::LatestSwitchBlockHeader => match self.latest_switch_block(now) {
                Some(block) => found(ResponseType::BlockHeader, &block.clone_header()),
                None => Ok(None),
            },
            InformationRequestTag::Transaction => {
                let (hash, _): (TransactionHash, bool) = argument(arguments)?;
                let is_said = |number: usize| number < now;
                let Some((_, transaction)) = self.transactions.get(&hash).filter(|(number, _)| is_said(*number)) else {
                    return Ok(None);
                };
                let executed = self.executions.get(&hash).filter(|(number, _)| is_said(*number));
                let info = executed.map(|(_, info)| info.clone());
                found(ResponseType::TransactionWithExecutionInfo, &(transaction.clone(), info))
            }
            InformationRequestTag::NodeStatus => self.node_status(now),
            _ => Err(ErrorCode::FunctionDisabled),
        }
    }

    fn latest_switch_block(&self, now: usize) -> Option<&Block> {
        self.said(now).iter().rev().map(|(_, block)| block.block()).find(|block| block.is_switch_block())
    }

    fn available_blocks(&self, now: usize) -> AvailableBlockRange {
        let heights = || self.said(now).iter().map(|(_, block)| block.block().height());
        let (low, high) = (heights().min().unwrap_or(0), heights().max().unwrap_or(0));
        AvailableBlockRange::new(low, high)
    }

    /// The members of a node's status, one after the other.
    fn node_status(&self, now: usize) -> Answer {
        let newest = self.block(None, now).map(BlockWithSignatures::block);
        let progress = newest.map_or(Timestamp::zero(), Block::timestamp);
        let first = self.blocks.first().map_or(progress, |(_, block)| block.block().timestamp());
        let newest = newest.map(|block| {
            let (hash, root) = (*block.hash(), *block.state_root_hash());
            (hash, block.timestamp(), block.era_id(), block.height(), root, block.proposer().clone())
        });
        let mut bytes = Vec::new();
        let mut add = |member: &dyn Fn(&mut Vec<u8>) -> Result<(), bytesrepr::Error>| {
            member(&mut bytes).map_err(|_| ErrorCode::InternalError)
        };
        add(&|bytes| VERSION.write_bytes(bytes))?;
        add(&|bytes| Peers::from(std::collections::BTreeMap::<String, String>::new()).write_bytes(bytes))?;
        add(&|bytes| self.status.build_version.write_bytes(bytes))?;
        add(&|bytes| self.status.chainspec_name.write_bytes(bytes))?;
        add(&|bytes| self.status.starting_state_root_hash.write_bytes(bytes))?;
        add(&|bytes| newest.write_bytes(bytes))?;
        add(&|bytes| self.status.our_public_signing_key.write_bytes(bytes))?;
        add(&|bytes| Some(TimeDiff::from_seconds(1)).write_bytes(bytes))?;
        add(&|bytes| None::<NextUpgrade>.write_bytes(bytes))?;
        add(&|bytes| progress.saturating_diff(first).write_bytes(bytes))?;
        add(&|bytes| "Validate".to_owned().write_bytes(bytes))?;
        add(&|bytes| progress.write_bytes(bytes))?;
        add(&|bytes| self.available_blocks(now).write_bytes(bytes))?;
        add(&|bytes| BlockSynchronizerStatus::new(None, None).write_bytes(bytes))?;
        add(&|bytes| self.latest_switch_block(now).map(|block| *block.hash()).write_bytes(bytes))?;
        Ok(Some((ResponseType::NodeStatus, bytes)))
    }
}

/// The recorded network's protocol.
const VERSION: ProtocolVersion = ProtocolVersion::from_parts(2, 0, 0);
