//! A network of one validator on loopback, and what it announces.
//!
//! Owns the node's process, its files, and the accounts of its genesis. Its event stream is read from the first event on and
//! kept: it is what everything else is compared with.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use serde_json::Value;
use sidecar_test_support::casper_types::{PublicKey, SecretKey, TimeDiff, Timestamp};
use sidecar_test_support::client::Request;
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::Process;
use tempfile::TempDir;

/// The name in `network/chainspec.toml`.
pub(crate) const CHAIN: &str = "casper-local";
/// How long anything may take that the network does by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Until the genesis, so that the node is up by then.
const TIME_TO_GENESIS: TimeDiff = TimeDiff::from_seconds(8);
const DELEGATED: u64 = 100_000_000_000_001;

/// The running network.
pub(crate) struct Network {
    process: Process,
    folder: TempDir,
    binary_port: ReservedPort,
    rest_port: ReservedPort,
    sse_port: ReservedPort,
    pub(crate) accounts: Accounts,
    pub(crate) chainspec: String,
    pub(crate) genesis_accounts: String,
    pub(crate) events: Events,
}

/// The accounts of the genesis.
pub(crate) struct Accounts {
    pub(crate) validator: SecretKey,
    pub(crate) faucet: SecretKey,
    pub(crate) delegator: SecretKey,
    /// The keys of the first two, as files.
    validator_pem: String,
    faucet_pem: String,
}

impl Network {
    /// Starts the network and waits for its first block.
    pub(crate) async fn start(node: &Path) -> Result<Network> {
        let folder = tempfile::tempdir()?;
        let version_folder = folder.path().join("2_0_0");
        fs::create_dir(&version_folder)?;
        let accounts = Accounts::new()?;
        let ports = [(); 4].map(|()| ReservedPort::new());
        let names = ["PEER_PORT", "BINARY_PORT", "REST_PORT", "SSE_PORT"];
        let mut config = include_str!("../network/config.toml").to_owned();
        for (name, port) in names.iter().zip(&ports) {
            config = config.replace(&format!("127.0.0.1:{name}"), &format!("127.0.0.1:{}", port.number()));
        }
        let genesis = Timestamp::now() + TIME_TO_GENESIS;
        let chainspec =
            include_str!("../network/chainspec.toml").replace("'ACTIVATION_POINT'", &format!("'{genesis}'"));
        let genesis_accounts = accounts.toml();
        fs::write(version_folder.join("config.toml"), config)?;
        fs::write(version_folder.join("chainspec.toml"), &chainspec)?;
        fs::write(version_folder.join("accounts.toml"), &genesis_accounts)?;
        write_key(&accounts.validator_pem, &version_folder.join("secret_key.pem"))?;
        let mut command = Command::new(node);
        command.arg("validator").arg(version_folder.join("config.toml")).env("RUST_LOG", "warn");
        let mut process = Process::start(&mut command);
        let [_, binary_port, rest_port, sse_port] = ports;
        process.wait_until_listening(sse_port.address()).await;
        process.wait_until_listening(binary_port.address()).await;
        let events = Events::follow(sse_port.address());
        let network = Network {
            process,
            folder,
            binary_port,
            rest_port,
            sse_port,
            accounts,
            chainspec,
            genesis_accounts,
            events,
        };
        network.events.wait_for("the first block", |event| event.get("BlockAdded").cloned()).await?;
        Ok(network)
    }

    pub(crate) fn binary_port(&self) -> SocketAddr {
        self.binary_port.address()
    }

    pub(crate) fn rest(&self) -> SocketAddr {
        self.rest_port.address()
    }

    pub(crate) fn sse(&self) -> SocketAddr {
        self.sse_port.address()
    }

    /// The key of the account that pays for everything, as a file.
    pub(crate) fn faucet_key_file(&self) -> Result<PathBuf> {
        let path = self.folder.path().join("faucet.pem");
        write_key(&self.accounts.faucet_pem, &path)?;
        Ok(path)
    }

    /// Ends the node at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill9();
    }
}

impl Accounts {
    fn new() -> Result<Accounts> {
        let (validator, validator_pem) = new_key()?;
        let (faucet, faucet_pem) = new_key()?;
        let delegator = SecretKey::generate_secp256k1()?;
        Ok(Accounts { validator, faucet, delegator, validator_pem, faucet_pem })
    }

    fn toml(&self) -> String {
        let [validator, faucet, delegator] =
            [&self.validator, &self.faucet, &self.delegator].map(|key| PublicKey::from(key).to_hex_string());
        format!(
            "[[accounts]]\npublic_key = '{faucet}'\nbalance = '1000000000000000000000000000'\n\n\
             [[accounts]]\npublic_key = '{validator}'\nbalance = '1000000000000000000'\n\n\
             [accounts.validator]\nbonded_amount = '500000000000000'\n\n\
             [[delegators]]\nvalidator_public_key = '{validator}'\ndelegator_public_key = '{delegator}'\n\
             balance = '1000000000000000000'\ndelegated_amount = '{DELEGATED}'\n"
        )
    }
}

/// A new Ed25519 key, and its PKCS #8 form in PEM.
fn new_key() -> Result<(SecretKey, String)> {
    /// Version, algorithm and length, before the 32 bytes of the key.
    const HEADER: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let mut der = [0; 48];
    let (header, key) = der.split_at_mut(HEADER.len());
    header.copy_from_slice(&HEADER);
    getrandom::fill(key)?;
    let secret = SecretKey::ed25519_from_bytes(&*key)?;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    Ok((secret, format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")))
}

fn write_key(pem: &str, path: &Path) -> Result<()> {
    fs::write(path, pem)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// The node's event stream, from its first event on. Clones share it.
#[derive(Clone)]
pub(crate) struct Events(Arc<Mutex<Vec<Event>>>);

/// An event of the node.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) payload: String,
    pub(crate) json: Value,
}

impl Events {
    fn follow(address: SocketAddr) -> Events {
        let events = Events(Arc::default());
        let read = Arc::clone(&events.0);
        tokio::spawn(async move {
            let request = Request::get(address, "/events?start_from=0").patience(PATIENCE);
            let mut stream = request.open().await;
            while let Some(message) = stream.next_message().await {
                if message.id.is_some() {
                    let json = serde_json::from_str(&message.data).unwrap_or_default();
                    read.lock().unwrap().push(Event { payload: message.data, json });
                }
            }
        });
        events
    }

    /// All events so far.
    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for so many more events.
    pub(crate) async fn wait_for_more(&self, events: usize) -> Result<()> {
        let wanted = self.all().len() + events;
        let deadline = Instant::now() + PATIENCE;
        while self.all().len() < wanted {
            ensure!(Instant::now() < deadline, "the node did not announce {events} more events within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The first event of which `find` makes something, as soon as there is one.
    pub(crate) async fn wait_for<T>(&self, what: &str, find: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(found) = self.find(&find) {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the node did not announce {what} within {PATIENCE:?}")
    }

    /// The first event of which `find` makes something.
    pub(crate) fn find<T>(&self, find: impl Fn(&Value) -> Option<T>) -> Option<T> {
        self.0.lock().unwrap().iter().find_map(|event| find(&event.json))
    }

    /// The processing of a transaction, given by its hash.
    pub(crate) async fn processed(&self, hash: &str) -> Result<Value> {
        let is_it = |event: &Value| {
            let processed = event.get("TransactionProcessed")?;
            (any_hash(&processed["transaction_hash"]) == Some(hash)).then(|| processed.clone())
        };
        self.wait_for(&format!("the processing of {hash}"), is_it).await
    }

    /// A block that has been announced, given by its hash.
    pub(crate) fn block(&self, hash: &Value) -> Result<Value> {
        let found = self.find(|event| {
            let added = event.get("BlockAdded")?;
            (added["block_hash"] == *hash).then(|| added["block"].clone())
        });
        found.with_context(|| format!("block {hash} was not announced"))
    }
}

/// The hash in `{"Version1":HASH}` or `{"Deploy":HASH}`.
pub(crate) fn any_hash(hash: &Value) -> Option<&str> {
    hash.get("Version1").or_else(|| hash.get("Deploy"))?.as_str()
}
