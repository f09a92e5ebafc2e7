//! Requests to a node, as bytes of the binary port.
//!
//! They are built from the types of casper-types 7, which knows keys that the version in casper-binary-port does not. A
//! test reads each of them back with casper-binary-port's own types.

use bytes::Bytes;
use casper_binary_port::{CommandHeader, InformationRequestTag};
use casper_types::account::AccountHash;
use casper_types::bytesrepr::{self, ToBytes};
use casper_types::contracts::{ContractHash, ContractPackageHash};
use casper_types::{
    BlockHash, BlockIdentifier, DictionaryAddr, Digest, EntityAddr, GlobalStateIdentifier, HashAddr, Key, KeyTag,
    PublicKey, Transaction, TransactionHash, URef,
};

use serde::Deserialize;

use super::frame::LENGTH_BYTES;

const GET: u8 = 0;
const TRY_ACCEPT_TRANSACTION: u8 = 1;
const TRY_SPECULATIVE_EXEC: u8 = 2;

const RECORD: u8 = 0;
const INFORMATION: u8 = 1;
const STATE: u8 = 2;
const TRIE: u8 = 3;

/// The record of a block's transfers.
const TRANSFER_RECORD: u16 = 6;

const STATE_ITEM: u8 = 0;
const ALL_STATE_ITEMS: u8 = 1;
const DICTIONARY_ITEM: u8 = 2;
const BALANCE: u8 = 3;
const STATE_ITEMS_BY_PREFIX: u8 = 4;

/// Where the request id is in a frame: after the length, the header's version and the command.
const ID_AT: std::ops::Range<usize> = LENGTH_BYTES + 3..LENGTH_BYTES + 5;

/// A request, complete but for its id.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    frame: Vec<u8>,
}

/// Why a request has no form in bytes.
pub(crate) type Encoding = Result<Request, bytesrepr::Error>;

impl Request {
    fn new(command: u8, body: &[&dyn Part]) -> Encoding {
        let mut frame = vec![0; LENGTH_BYTES];
        frame.extend(CommandHeader::HEADER_VERSION.to_le_bytes());
        frame.extend([command, 0, 0]);
        for part in body {
            part.write(&mut frame)?;
        }
        let length = u32::try_from(frame.len() - LENGTH_BYTES).map_err(|_| bytesrepr::Error::OutOfMemory)?;
        if let Some(start) = frame.first_chunk_mut() {
            *start = length.to_le_bytes();
        }
        Ok(Request { frame })
    }

    fn information(tag: InformationRequestTag, arguments: &[&dyn Part]) -> Encoding {
        let mut key = Vec::new();
        for argument in arguments {
            argument.write(&mut key)?;
        }
        Request::new(GET, &[&INFORMATION, &u16::from(tag), &bytesrepr::Bytes::from(key)])
    }

    fn state(at: Option<GlobalStateIdentifier>, qualifier: &[&dyn Part]) -> Encoding {
        let mut body: Vec<&dyn Part> = vec![&STATE, &at];
        body.extend(qualifier);
        Request::new(GET, &body)
    }

    /// Hands a transaction to the network.
    pub(crate) fn accept_transaction(transaction: &Transaction) -> Encoding {
        Request::new(TRY_ACCEPT_TRANSACTION, &[transaction])
    }

    /// Runs a transaction without effect.
    pub(crate) fn speculative_execution(transaction: &Transaction) -> Encoding {
        Request::new(TRY_SPECULATIVE_EXEC, &[transaction])
    }

    pub(crate) fn transfers(block: &BlockHash) -> Encoding {
        let key = bytesrepr::Bytes::from(block.inner().value().to_vec());
        Request::new(GET, &[&RECORD, &TRANSFER_RECORD, &key])
    }

    pub(crate) fn trie(key: &Digest) -> Encoding {
        Request::new(GET, &[&TRIE, key])
    }

    /// A request for information that takes no arguments.
    pub(crate) fn plain_information(tag: InformationRequestTag) -> Encoding {
        Request::information(tag, &[])
    }

    pub(crate) fn block_header(block: Option<BlockIdentifier>) -> Encoding {
        Request::information(InformationRequestTag::BlockHeader, &[&block])
    }

    pub(crate) fn block_with_signatures(block: Option<BlockIdentifier>) -> Encoding {
        Request::information(InformationRequestTag::BlockWithSignatures, &[&block])
    }

    pub(crate) fn transaction(hash: &TransactionHash, with_finalized_approvals: bool) -> Encoding {
        Request::information(InformationRequestTag::Transaction, &[hash, &with_finalized_approvals])
    }

    pub(crate) fn reward(era: Option<EraIdentifier>, validator: &PublicKey, delegator: Option<&PublicKey>) -> Encoding {
        let delegator = delegator.cloned().map(casper_types::system::auction::DelegatorKind::PublicKey);
        Request::information(InformationRequestTag::Reward, &[&era, validator, &delegator])
    }

    pub(crate) fn package(at: Option<GlobalStateIdentifier>, package: &PackageIdentifier) -> Encoding {
        Request::information(InformationRequestTag::Package, &[&at, package])
    }

    pub(crate) fn entity(
        at: Option<GlobalStateIdentifier>,
        entity: &EntityIdentifier,
        include_bytecode: bool,
    ) -> Encoding {
        Request::information(InformationRequestTag::Entity, &[&at, entity, &include_bytecode])
    }

    pub(crate) fn state_item(at: Option<GlobalStateIdentifier>, key: &Key, path: &[String]) -> Encoding {
        Request::state(at, &[&STATE_ITEM, key, &path.to_vec()])
    }

    pub(crate) fn all_state_items(at: Option<GlobalStateIdentifier>, kind: KeyTag) -> Encoding {
        Request::state(at, &[&ALL_STATE_ITEMS, &(kind as u8)])
    }

    pub(crate) fn dictionary_item(at: Option<GlobalStateIdentifier>, item: &DictionaryItem) -> Encoding {
        Request::state(at, &[&DICTIONARY_ITEM, item])
    }

    pub(crate) fn balance(at: Option<GlobalStateIdentifier>, purse: &Purse) -> Encoding {
        Request::state(at, &[&BALANCE, purse])
    }

    pub(crate) fn state_items_of_entity(
        at: Option<GlobalStateIdentifier>,
        items: EntityItems,
        entity: &EntityAddr,
    ) -> Encoding {
        let prefix: &[u8] = match items {
            EntityItems::NamedKeys => &[KeyTag::NamedKey as u8],
            EntityItems::EntryPointsV1 => &[KeyTag::EntryPoint as u8, 0],
            EntityItems::EntryPointsV2 => &[KeyTag::EntryPoint as u8, 1],
        };
        Request::state(at, &[&STATE_ITEMS_BY_PREFIX, &Raw(prefix), entity])
    }

    /// Bytes of the frame's payload.
    pub(super) fn payload_bytes(&self) -> u32 {
        // `new` has checked it.
        u32::try_from(self.frame.len() - LENGTH_BYTES).unwrap_or(u32::MAX)
    }

    /// Whether a node that gets it a second time does nothing that it has not done already.
    pub(super) fn may_be_sent_twice(&self) -> bool {
        self.frame.get(LENGTH_BYTES + 2) != Some(&TRY_ACCEPT_TRANSACTION)
    }

    /// The whole frame, under an id.
    pub(super) fn frame(&self, id: u16) -> Bytes {
        let mut frame = self.frame.clone();
        if let Some(place) = frame.get_mut(ID_AT) {
            place.copy_from_slice(&id.to_le_bytes());
        }
        Bytes::from(frame)
    }
}

/// The id in a frame.
pub(super) fn id_of(frame: &[u8]) -> Option<u16> {
    frame.get(ID_AT)?.first_chunk().map(|id| u16::from_le_bytes(*id))
}

/// What a request is put together from.
trait Part {
    fn write(&self, into: &mut Vec<u8>) -> Result<(), bytesrepr::Error>;
}

impl<T: ToBytes> Part for T {
    fn write(&self, into: &mut Vec<u8>) -> Result<(), bytesrepr::Error> {
        self.write_bytes(into)
    }
}

/// Bytes as they are, without a length.
struct Raw<'a>(&'a [u8]);

impl ToBytes for Raw<'_> {
    fn to_bytes(&self) -> Result<Vec<u8>, bytesrepr::Error> {
        Ok(self.0.to_vec())
    }

    fn serialized_length(&self) -> usize {
        self.0.len()
    }
}

/// What an addressable entity has in the global state beside itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EntityItems {
    NamedKeys,
    EntryPointsV1,
    EntryPointsV2,
}

/// The era of a reward.
#[derive(Clone, Debug, Deserialize)]
pub(crate) enum EraIdentifier {
    Era(casper_types::EraId),
    Block(BlockIdentifier),
}

/// A contract package, or a package.
#[derive(Clone, Debug)]
pub(crate) enum PackageIdentifier {
    ContractPackageHash(ContractPackageHash),
    PackageAddr(HashAddr),
}

/// An account, a contract, or an addressable entity.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum EntityIdentifier {
    ContractHash(ContractHash),
    PublicKey(PublicKey),
    AccountHash(AccountHash),
    EntityAddr(EntityAddr),
}

/// Where a balance is.
#[derive(Clone, Debug)]
pub(crate) enum Purse {
    Uref(URef),
    PublicKey(PublicKey),
    Account(AccountHash),
    Entity(EntityAddr),
}

/// An item of a dictionary. The names are the dictionary's and the item's.
#[derive(Clone, Debug)]
pub(crate) enum DictionaryItem {
    OfAccount(AccountHash, String, String),
    OfContract(HashAddr, String, String),
    OfEntity(EntityAddr, String, String),
    OfSeed(URef, String),
    At(DictionaryAddr),
}

/// Writes a variant as its tag and fields, which is how bytesrepr has enums.
macro_rules! tagged {
    ($type:ty { $($tag:literal => $variant:pat => [$($field:expr),*];)* }) => {
        impl ToBytes for $type {
            fn to_bytes(&self) -> Result<Vec<u8>, bytesrepr::Error> {
                let mut bytes = Vec::with_capacity(self.serialized_length());
                self.write_bytes(&mut bytes)?;
                Ok(bytes)
            }

            fn serialized_length(&self) -> usize {
                match self { $($variant => 1 $(+ $field.serialized_length())*,)* }
            }

            fn write_bytes(&self, into: &mut Vec<u8>) -> Result<(), bytesrepr::Error> {
                match self {
                    $($variant => {
                        into.push($tag);
                        $($field.write_bytes(into)?;)*
                    })*
                }
                Ok(())
            }
        }
    };
}

tagged!(EraIdentifier {
    0 => EraIdentifier::Era(era) => [era];
    1 => EraIdentifier::Block(block) => [block];
});

tagged!(PackageIdentifier {
    0 => PackageIdentifier::ContractPackageHash(hash) => [hash];
    1 => PackageIdentifier::PackageAddr(address) => [address];
});

tagged!(EntityIdentifier {
    0 => EntityIdentifier::ContractHash(hash) => [hash];
    1 => EntityIdentifier::PublicKey(key) => [key];
    2 => EntityIdentifier::AccountHash(hash) => [hash];
    3 => EntityIdentifier::EntityAddr(address) => [address];
});

tagged!(Purse {
    2 => Purse::Uref(uref) => [uref];
    3 => Purse::PublicKey(key) => [key];
    4 => Purse::Account(hash) => [hash];
    5 => Purse::Entity(address) => [address];
});

tagged!(DictionaryItem {
    0 => DictionaryItem::OfAccount(account, dictionary, item) => [account, dictionary, item];
    1 => DictionaryItem::OfContract(contract, dictionary, item) => [contract, dictionary, item];
    2 => DictionaryItem::OfEntity(entity, dictionary, item) => [entity, dictionary, item];
    3 => DictionaryItem::OfSeed(seed, item) => [seed, item];
    4 => DictionaryItem::At(address) => [address];
});

#[cfg(test)]
mod tests {
    use casper_binary_port::{Command, CommandTag, GetRequest, GlobalStateRequest, InformationRequest};
    use casper_types::testing::TestRng;
    use casper_types::{Deploy, EraId};
    use sidecar_test_support::casper_types::bytesrepr::{FromBytes as _, ToBytes as _};

    use super::*;

    /// How casper-binary-port reads and writes again what was encoded here.
    fn read_back(request: &Request) -> (Command, String) {
        let frame = request.frame(0x1234);
        assert_eq!(usize::try_from(u32::from_le_bytes(*frame.first_chunk().unwrap())).unwrap(), frame.len() - 4);
        assert_eq!(id_of(&frame), Some(0x1234));
        let (header, body) = CommandHeader::from_bytes(&frame[4..]).unwrap();
        assert_eq!((header.version(), header.id()), (1, 0x1234));
        let tag = CommandTag::try_from(header.type_tag()).unwrap_or_else(|_| panic!("tag"));
        let command = Command::try_from((tag, body)).unwrap();
        assert_eq!(command.to_bytes().unwrap(), body);
        let shown = match &command {
            Command::Get(GetRequest::Information { info_type_tag, key }) => {
                let tag = InformationRequestTag::try_from(*info_type_tag).unwrap();
                format!("{:?}", InformationRequest::try_from((tag, key.as_slice())).unwrap())
            }
            other => format!("{other:?}"),
        };
        (command, shown)
    }

    fn shows(request: Encoding, parts: &[&str]) {
        let (_, shown) = read_back(&request.unwrap());
        for part in parts {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn the_worked_example_of_the_protocol_is_encoded_as_it_says() {
        let request = Request::plain_information(InformationRequestTag::Peers).unwrap();
        let expected = hex::decode("0c000000010000010001030000000000").unwrap();
        assert_eq!(request.frame(1), expected);
    }

    #[test]
    fn every_request_is_read_back_by_casper_binary_port() {
        let mut random = TestRng::new();
        let (hash, digest) = (BlockHash::random(&mut random), Digest::random(&mut random));
        let (key, account) = (PublicKey::random(&mut random), AccountHash::new([7; 32]));
        let entity = EntityAddr::SmartContract([9; 32]);
        let uref = URef::new([8; 32], casper_types::AccessRights::READ_ADD_WRITE);
        let at = Some(GlobalStateIdentifier::BlockHeight(77));
        let by_root = Some(GlobalStateIdentifier::StateRootHash(digest));
        let transaction = Transaction::Deploy(Deploy::random(&mut random));
        shows(Request::accept_transaction(&transaction), &["TryAcceptTransaction", "Deploy"]);
        shows(Request::speculative_execution(&transaction), &["TrySpeculativeExec", "Deploy"]);
        shows(Request::transfers(&hash), &["Record", "record_type_tag: 6"]);
        shows(Request::trie(&digest), &["Trie"]);
        shows(Request::plain_information(InformationRequestTag::NodeStatus), &["NodeStatus"]);
        shows(Request::block_header(None), &["BlockHeader(None)"]);
        shows(
            Request::block_with_signatures(Some(BlockIdentifier::Height(5))),
            &["BlockWithSignatures(Some(Height(5)))"],
        );
        shows(Request::transaction(&transaction.hash(), true), &["Transaction", "with_finalized_approvals: true"]);
        let era = EraIdentifier::Era(EraId::new(3));
        shows(Request::reward(Some(era), &key, Some(&key)), &["Reward", "Era(EraId(3))", "PublicKey"]);
        let block = EraIdentifier::Block(BlockIdentifier::Hash(hash));
        shows(Request::reward(Some(block), &key, None), &["Block(Hash", "delegator: None"]);
        let package = PackageIdentifier::ContractPackageHash(ContractPackageHash::new([1; 32]));
        shows(Request::package(at, &package), &["Package", "BlockHeight(77)", "ContractPackageHash"]);
        shows(Request::package(None, &PackageIdentifier::PackageAddr([1; 32])), &["PackageAddr"]);
        for (identifier, name) in [
            (EntityIdentifier::ContractHash(ContractHash::new([1; 32])), "ContractHash"),
            (EntityIdentifier::PublicKey(key.clone()), "PublicKey"),
            (EntityIdentifier::AccountHash(account), "AccountHash"),
            (EntityIdentifier::EntityAddr(entity), "EntityAddr"),
        ] {
            shows(Request::entity(None, &identifier, true), &["Entity", name, "include_bytecode: true"]);
        }
        shows(Request::state_item(by_root, &Key::Account(account), &["a".to_owned()]), &["Item", "Account", "\"a\""]);
        shows(Request::all_state_items(at, KeyTag::BidAddr), &["AllItems", "BidAddr"]);
        for (purse, name) in [
            (Purse::Uref(uref), "Purse(URef"),
            (Purse::PublicKey(key.clone()), "PublicKey"),
            (Purse::Account(account), "Account("),
            (Purse::Entity(entity), "Entity("),
        ] {
            shows(Request::balance(at, &purse), &["Balance", name]);
        }
        let text = |text: &str| text.to_owned();
        for (item, name) in [
            (DictionaryItem::OfAccount(account, text("d"), text("i")), "AccountNamedKey"),
            (DictionaryItem::OfContract([2; 32], text("d"), text("i")), "ContractNamedKey"),
            (DictionaryItem::OfEntity(entity, text("d"), text("i")), "EntityNamedKey"),
            (DictionaryItem::OfSeed(uref, text("i")), "URef"),
            (DictionaryItem::At([3; 32]), "DictionaryItem("),
        ] {
            shows(Request::dictionary_item(at, &item), &["DictionaryItem", name]);
        }
        for (items, name) in [
            (EntityItems::NamedKeys, "NamedKeysByEntity"),
            (EntityItems::EntryPointsV1, "EntryPointsV1ByEntity"),
            (EntityItems::EntryPointsV2, "EntryPointsV2ByEntity"),
        ] {
            shows(Request::state_items_of_entity(at, items, &entity), &["ItemsByPrefix", name]);
        }
    }

    #[test]
    fn a_key_that_casper_binary_port_does_not_know_is_asked_for_all_the_same() {
        let known = Request::state_item(None, &Key::EraSummary, &[]).unwrap().frame;
        let new = Request::state_item(None, &Key::RewardsHandling, &[]).unwrap().frame;
        let differing: Vec<_> = known.iter().zip(&new).filter(|(known, new)| known != new).collect();
        assert_eq!(
            (known.len(), differing),
            (new.len(), vec![(&(KeyTag::EraSummary as u8), &(KeyTag::RewardsHandling as u8))])
        );
        let (_, body) = CommandHeader::from_bytes(&new[4..]).unwrap();
        assert!(GlobalStateRequest::from_bytes(&body[1..]).is_err());
    }

    #[test]
    fn only_a_transaction_to_be_accepted_may_not_be_sent_twice() {
        let transaction = Transaction::Deploy(Deploy::random(&mut TestRng::new()));
        assert!(!Request::accept_transaction(&transaction).unwrap().may_be_sent_twice());
        assert!(Request::speculative_execution(&transaction).unwrap().may_be_sent_twice());
        assert!(Request::block_header(None).unwrap().may_be_sent_twice());
    }
}
