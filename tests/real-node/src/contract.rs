//! The contract that the network runs: it keeps a dictionary and emits a message when it is called.

use std::collections::BTreeMap;

use anyhow::Result;
use sidecar_test_support::casper_types::addressable_entity::EntryPoints;
use sidecar_test_support::casper_types::bytesrepr::ToBytes;
use sidecar_test_support::casper_types::contract_messages::{MessagePayload, MessageTopicOperation};
use sidecar_test_support::casper_types::{
    CLType, CLValue, EntityEntryPoint, EntryPointAccess, EntryPointPayment, EntryPointType,
};

/// The name of the contract in the account that installs it.
pub(crate) const CONTRACT: &str = "greeter";
/// The contract's entry point.
pub(crate) const ENTRY_POINT: &str = "greet";
/// The name of the dictionary, in the account and in the contract.
pub(crate) const DICTIONARY: &str = "greetings";
/// The one item of the dictionary.
pub(crate) const ITEM: &str = "english";
/// Its value, and the message that each call emits.
pub(crate) const GREETING: &str = "hello";

const TEXT: &str = include_str!("contract.wat");
const TOPIC: &str = "greetings";
/// The first address of the constants.
const START: usize = 1024;

/// The module's bytes.
pub(crate) fn module() -> Result<Vec<u8>> {
    let mut constants = Constants { bytes: Vec::new(), text: TEXT.to_owned() };
    constants.add("unit", CLValue::unit().to_bytes()?);
    // The dictionary's key is within the contract's named keys: its address is written there when it is made.
    let mut named_keys = BTreeMap::from([(DICTIONARY.to_owned(), ())]).to_bytes()?;
    named_keys.push(2);
    named_keys.extend([0; 33]);
    let end = constants.add("named_keys", named_keys);
    constants.name("dictionary_key", end - 34, 34);
    constants.name("dictionary", end - 33, 33);
    constants.add("dictionary_name", DICTIONARY.to_bytes()?);
    constants.add("item_name", ITEM.into());
    constants.add("item_value", CLValue::from_components(CLType::String, GREETING.to_bytes()?).to_bytes()?);
    constants.add("package", vec![0; 32]);
    constants.add("access", vec![0; 32]);
    constants.add("version", vec![0; 4]);
    constants.add("contract_name", CONTRACT.to_bytes()?);
    let mut contract_key = vec![1];
    contract_key.extend([0; 32]);
    let end = constants.add("contract_key", contract_key);
    constants.name("contract", end - 32, 32);
    constants.add("entry_points", entry_points().to_bytes()?);
    constants.add("topics", BTreeMap::from([(TOPIC.to_owned(), MessageTopicOperation::Add)]).to_bytes()?);
    constants.add("topic", TOPIC.into());
    constants.add("message", MessagePayload::String(GREETING.to_owned()).to_bytes()?);
    Ok(wat::parse_str(constants.finish())?)
}

fn entry_points() -> EntryPoints {
    let (access, payment) = (EntryPointAccess::Public, EntryPointPayment::Caller);
    let greet = EntityEntryPoint::new(ENTRY_POINT, Vec::new(), CLType::Unit, access, EntryPointType::Called, payment);
    let mut entry_points = EntryPoints::new();
    entry_points.add_entry_point(greet);
    entry_points
}

/// The constants, and the text with those that have an address already.
struct Constants {
    bytes: Vec<u8>,
    text: String,
}

impl Constants {
    /// Adds a constant; returns where it ends.
    fn add(&mut self, name: &str, bytes: Vec<u8>) -> usize {
        self.name(name, START + self.bytes.len(), bytes.len());
        self.bytes.extend(bytes);
        START + self.bytes.len()
    }

    fn name(&mut self, name: &str, at: usize, length: usize) {
        let text = self.text.replace(&format!("{{{name}.at}}"), &format!("(i32.const {at})"));
        self.text = text.replace(&format!("{{{name}}}"), &format!("(i32.const {at}) (i32.const {length})"));
    }

    fn finish(self) -> String {
        let digits: String = self.bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        self.text.replace("{constants}", &format!("(data (i32.const {START}) \"{digits}\")"))
    }
}
