//! The global state: values, accounts, entities, packages, dictionaries, balances.

use casper_binary_port::ResponseType;
use casper_types::account::AccountHash;
use casper_types::bytesrepr::Bytes;
use casper_types::contracts::{ContractPackage, ContractPackageHash, NamedKeys};
use casper_types::{
    Account, AddressableEntity, BlockHeader, BlockIdentifier, BlockTime, ByteCode, Contract, ContractWasm, Digest,
    EntityAddr, EntryPointValue, GlobalStateIdentifier, Key, Package, PackageHash, PublicKey, StoredValue, U512, URef,
};
use serde::{Deserialize, Serialize};

use super::super::bridge::{Node, Reply, proof_text, state_after};
use super::super::failure::{Code, Failure};
use super::super::node_link::{
    self, Balance, DictionaryItem, EntityIdentifier, EntityItems, FoundAccount, FoundContract, FoundDictionaryItem,
    FoundEntity, LinkError, NodeValue, Proven, Purse, Request, StateItem, Trie,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetItemParams {
    state_root_hash: Digest,
    key: Key,
    #[serde(default)]
    path: Vec<String>,
}

pub(super) async fn get_item(node: &Node<'_>, params: GetItemParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetItemResult {
        stored_value: StoredValue,
        merkle_proof: String,
    }

    let at = GlobalStateIdentifier::StateRootHash(params.state_root_hash);
    let StateItem { value, proofs } = state_item(node, Some(at), &params.key, &params.path).await?;
    let result = GetItemResult { stored_value: value, merkle_proof: proof_text(&proofs)? };
    Ok(Reply::new(&result)?.lasting(true))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryGlobalStateParams {
    state_identifier: Option<GlobalStateIdentifier>,
    key: Key,
    #[serde(default)]
    path: Vec<String>,
}

pub(super) async fn query_global_state(node: &Node<'_>, params: QueryGlobalStateParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct QueryGlobalStateResult {
        block_header: Option<BlockHeader>,
        stored_value: StoredValue,
        merkle_proof: String,
    }

    let at = params.state_identifier;
    let block = match at {
        Some(GlobalStateIdentifier::BlockHash(hash)) => Some(BlockIdentifier::Hash(hash)),
        Some(GlobalStateIdentifier::BlockHeight(height)) => Some(BlockIdentifier::Height(height)),
        Some(GlobalStateIdentifier::StateRootHash(_)) | None => None,
    };
    let block_header = match block {
        Some(_) => Some(node.block_header(block).await?),
        None => None,
    };
    let StateItem { value, proofs } = state_item(node, at, &params.key, &params.path).await?;
    let lasts = matches!(at, Some(GlobalStateIdentifier::StateRootHash(_) | GlobalStateIdentifier::BlockHash(_)));
    let result = QueryGlobalStateResult { block_header, stored_value: value, merkle_proof: proof_text(&proofs)? };
    Ok(Reply::new(&result)?.lasting(lasts))
}

async fn state_item(
    node: &Node<'_>,
    at: Option<GlobalStateIdentifier>,
    key: &Key,
    path: &[String],
) -> Result<StateItem, Failure> {
    node.state_item("global state item", at, key, path).await?.ok_or_else(Failure::no_such_value)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetBalanceParams {
    state_root_hash: Digest,
    purse_uref: String,
}

pub(super) async fn get_balance(node: &Node<'_>, params: GetBalanceParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetBalanceResult {
        balance_value: U512,
        merkle_proof: String,
    }

    let uref = URef::from_formatted_str(&params.purse_uref)
        .map_err(|error| Failure::new(Code::BalanceUref, format!("the requested purse URef was invalid: {error}")))?;
    let at = GlobalStateIdentifier::StateRootHash(params.state_root_hash);
    let balance = balance(node, Some(at), &Purse::Uref(uref)).await?;
    let merkle_proof = proof_text(&vec![balance.total_balance_proof])?;
    Reply::new(&GetBalanceResult { balance_value: balance.available_balance, merkle_proof })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum PurseIdentifier {
    MainPurseUnderPublicKey(PublicKey),
    MainPurseUnderAccountHash(AccountHash),
    MainPurseUnderEntityAddr(EntityAddr),
    PurseUref(URef),
}

impl From<PurseIdentifier> for Purse {
    fn from(identifier: PurseIdentifier) -> Self {
        match identifier {
            PurseIdentifier::MainPurseUnderPublicKey(key) => Purse::PublicKey(key),
            PurseIdentifier::MainPurseUnderAccountHash(hash) => Purse::Account(hash),
            PurseIdentifier::MainPurseUnderEntityAddr(address) => Purse::Entity(address),
            PurseIdentifier::PurseUref(uref) => Purse::Uref(uref),
        }
    }
}

// Unknown members are ignored, as by the reference.
#[derive(Deserialize)]
pub(super) struct QueryBalanceParams {
    state_identifier: Option<GlobalStateIdentifier>,
    purse_identifier: PurseIdentifier,
}

pub(super) async fn query_balance(node: &Node<'_>, params: QueryBalanceParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct QueryBalanceResult {
        balance: U512,
    }

    let balance = balance(node, params.state_identifier, &params.purse_identifier.into()).await?;
    Reply::new(&QueryBalanceResult { balance: balance.available_balance })
}

// Unknown members are ignored, as by the reference.
#[derive(Deserialize)]
pub(super) struct QueryBalanceDetailsParams {
    state_identifier: Option<GlobalStateIdentifier>,
    purse_identifier: PurseIdentifier,
}

pub(super) async fn query_balance_details(
    node: &Node<'_>,
    params: QueryBalanceDetailsParams,
) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct Hold {
        time: BlockTime,
        amount: U512,
        proof: String,
    }

    #[derive(Serialize)]
    struct QueryBalanceDetailsResult {
        total_balance: U512,
        available_balance: U512,
        total_balance_proof: String,
        holds: Vec<Hold>,
    }

    let balance = balance(node, params.state_identifier, &params.purse_identifier.into()).await?;
    let holds = balance.holds.into_iter().flat_map(|(time, holds)| {
        let hold = move |(amount, proof)| Ok(Hold { time, amount, proof: proof_text(&vec![proof])? });
        holds.into_values().map(hold)
    });
    Reply::new(&QueryBalanceDetailsResult {
        total_balance: balance.total_balance,
        available_balance: balance.available_balance,
        total_balance_proof: proof_text(&vec![balance.total_balance_proof])?,
        holds: holds.collect::<Result<_, Failure>>()?,
    })
}

async fn balance(node: &Node<'_>, at: Option<GlobalStateIdentifier>, purse: &Purse) -> Result<Balance, Failure> {
    node.required("balance", Request::balance(at, purse)).await
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AccountIdentifier {
    PublicKey(PublicKey),
    AccountHash(AccountHash),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetAccountInfoParams {
    #[serde(alias = "public_key")]
    account_identifier: AccountIdentifier,
    block_identifier: Option<BlockIdentifier>,
}

pub(super) async fn get_account_info(node: &Node<'_>, params: GetAccountInfoParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetAccountInfoResult {
        account: Account,
        merkle_proof: String,
    }

    let account = match params.account_identifier {
        AccountIdentifier::PublicKey(key) => key.to_account_hash(),
        AccountIdentifier::AccountHash(hash) => hash,
    };
    let at = params.block_identifier.map(state_after);
    let found = node.state_item("account info", at, &Key::Account(account), &[]).await?;
    let StateItem { value, proofs } =
        found.ok_or_else(|| Failure::new(Code::NoSuchAccount, "the requested account was not found"))?;
    let account = value.into_account().ok_or_else(|| {
        Failure::new(Code::AccountMigrated, "the requested account has been migrated to an addressable entity")
    })?;
    Reply::new(&GetAccountInfoResult { account, merkle_proof: proof_text(&proofs)? })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetAddressableEntityParams {
    entity_identifier: EntityIdentifier,
    block_identifier: Option<BlockIdentifier>,
    include_bytecode: Option<bool>,
}

#[derive(Serialize)]
struct ByteCodeWithProof {
    code: ByteCode,
    merkle_proof: String,
}

#[derive(Serialize)]
struct ContractWasmWithProof {
    wasm: ContractWasm,
    merkle_proof: String,
}

#[derive(Serialize)]
enum AnyEntity {
    AddressableEntity {
        entity: AddressableEntity,
        named_keys: NamedKeys,
        entry_points: Vec<EntryPointValue>,
        bytecode: Option<ByteCodeWithProof>,
    },
    Account(Account),
    Contract {
        contract: Contract,
        wasm: Option<ContractWasmWithProof>,
    },
}

pub(super) async fn get_entity(node: &Node<'_>, params: GetAddressableEntityParams) -> Result<Reply, Failure> {
    const WHAT: &str = "entity";

    #[derive(Serialize)]
    struct GetEntityResult {
        entity: AnyEntity,
        merkle_proof: String,
    }

    let failed = |error: LinkError| Failure::node(WHAT, &error);
    let at = params.block_identifier.map(state_after);
    let include_bytecode = params.include_bytecode.unwrap_or_default();
    let request = Request::entity(at, &params.entity_identifier, include_bytecode);
    let answer = node.answer(WHAT, request).await?;
    let kind = answer.found().map_err(failed)?.ok_or_else(Failure::no_such_entity)?;
    let (entity, proofs) = if is::<FoundEntity>(kind) {
        let FoundEntity { address, entity, bytecode } = answer.decode().map_err(failed)?;
        let bytecode = bytecode
            .map(|Proven { value: code, proofs }| Ok(ByteCodeWithProof { code, merkle_proof: proof_text(&proofs)? }));
        let with_items = AnyEntity::AddressableEntity {
            entity: entity.value,
            named_keys: named_keys(node, at, &address).await?,
            entry_points: entry_points(node, at, &address).await?,
            bytecode: bytecode.transpose()?,
        };
        (with_items, entity.proofs)
    } else if is::<FoundAccount>(kind) {
        let FoundAccount { account, proofs } = answer.decode().map_err(failed)?;
        (AnyEntity::Account(account), proofs)
    } else if is::<FoundContract>(kind) {
        let FoundContract { contract, wasm, .. } = answer.decode().map_err(failed)?;
        let wasm = wasm.map(|Proven { value: wasm, proofs }| {
            Ok(ContractWasmWithProof { wasm, merkle_proof: proof_text(&proofs)? })
        });
        (AnyEntity::Contract { contract: contract.value, wasm: wasm.transpose()? }, contract.proofs)
    } else {
        return Err(failed(LinkError::UnexpectedKind(kind)));
    };
    Reply::new(&GetEntityResult { entity, merkle_proof: proof_text(&proofs)? })
}

/// The request for each of the things that an addressable entity has beside itself.
const ENTITY_ITEMS: &str = "entity named keys";

async fn named_keys(
    node: &Node<'_>,
    at: Option<GlobalStateIdentifier>,
    entity: &EntityAddr,
) -> Result<NamedKeys, Failure> {
    let request = Request::state_items_of_entity(at, EntityItems::NamedKeys, entity);
    let values: Vec<StoredValue> = node.required(ENTITY_ITEMS, request).await?;
    let mut named_keys = NamedKeys::new();
    for value in values {
        let kind = value.type_name();
        let named_key = value.into_named_key().ok_or_else(|| unexpected_value(&kind))?;
        let (name, key) = (named_key.get_name(), named_key.get_key());
        let invalid = |error| Failure::new(Code::Internal, format!("the named keys were invalid: {error}"));
        named_keys.insert(name.map_err(invalid)?, key.map_err(invalid)?);
    }
    Ok(named_keys)
}

async fn entry_points(
    node: &Node<'_>,
    at: Option<GlobalStateIdentifier>,
    entity: &EntityAddr,
) -> Result<Vec<EntryPointValue>, Failure> {
    let mut entry_points = Vec::new();
    for items in [EntityItems::EntryPointsV1, EntityItems::EntryPointsV2] {
        let request = Request::state_items_of_entity(at, items, entity);
        let values: Vec<StoredValue> = node.required(ENTITY_ITEMS, request).await?;
        for value in values {
            let kind = value.type_name();
            entry_points.push(value.into_entry_point_value().ok_or_else(|| unexpected_value(&kind))?);
        }
    }
    Ok(entry_points)
}

fn unexpected_value(kind: &str) -> Failure {
    Failure::new(Code::Internal, format!("the named keys were invalid: unexpected stored value: {kind}"))
}

fn is<T: NodeValue>(kind: u8) -> bool {
    kind == T::KIND as u8
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum PackageIdentifier {
    PackageAddr(PackageHash),
    ContractPackageHash(ContractPackageHash),
}

impl From<PackageIdentifier> for node_link::PackageIdentifier {
    fn from(identifier: PackageIdentifier) -> Self {
        match identifier {
            PackageIdentifier::PackageAddr(hash) => node_link::PackageIdentifier::PackageAddr(hash.value()),
            PackageIdentifier::ContractPackageHash(hash) => node_link::PackageIdentifier::ContractPackageHash(hash),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetPackageParams {
    package_identifier: PackageIdentifier,
    block_identifier: Option<BlockIdentifier>,
}

pub(super) async fn get_package(node: &Node<'_>, params: GetPackageParams) -> Result<Reply, Failure> {
    const WHAT: &str = "package";

    #[derive(Serialize)]
    enum SomePackage {
        Package(Package),
        ContractPackage(ContractPackage),
    }

    #[derive(Serialize)]
    struct GetPackageResult {
        package: SomePackage,
        merkle_proof: String,
    }

    let failed = |error: LinkError| Failure::node(WHAT, &error);
    let at = params.block_identifier.map(state_after);
    let answer = node.answer(WHAT, Request::package(at, &params.package_identifier.into())).await?;
    let kind = answer.found().map_err(failed)?.ok_or_else(Failure::no_such_entity)?;
    let (package, proofs) = if kind == ResponseType::PackageWithProof as u8 {
        let Proven { value, proofs } = answer.decode::<Proven<Package>>().map_err(failed)?;
        (SomePackage::Package(value), proofs)
    } else if kind == ResponseType::ContractPackageWithProof as u8 {
        let Proven { value, proofs } = answer.decode::<Proven<ContractPackage>>().map_err(failed)?;
        (SomePackage::ContractPackage(value), proofs)
    } else {
        return Err(failed(LinkError::UnexpectedKind(kind)));
    };
    Reply::new(&GetPackageResult { package, merkle_proof: proof_text(&proofs)? })
}

// Unknown members are ignored, as by the reference.
#[derive(Deserialize)]
enum DictionaryIdentifier {
    AccountNamedKey { key: String, dictionary_name: String, dictionary_item_key: String },
    ContractNamedKey { key: String, dictionary_name: String, dictionary_item_key: String },
    EntityNamedKey { key: String, dictionary_name: String, dictionary_item_key: String },
    URef { seed_uref: String, dictionary_item_key: String },
    Dictionary(String),
}

impl DictionaryIdentifier {
    fn item(self) -> Result<DictionaryItem, Failure> {
        match self {
            DictionaryIdentifier::AccountNamedKey { key, dictionary_name, dictionary_item_key } => {
                let account = AccountHash::from_formatted_str(&key).map_err(invalid_dictionary_key)?;
                Ok(DictionaryItem::OfAccount(account, dictionary_name, dictionary_item_key))
            }
            DictionaryIdentifier::ContractNamedKey { key, dictionary_name, dictionary_item_key } => {
                let key = Key::from_formatted_str(&key).map_err(invalid_dictionary_key)?;
                let contract = key.into_hash_addr().ok_or_else(|| invalid_dictionary_key("not a hash address"))?;
                Ok(DictionaryItem::OfContract(contract, dictionary_name, dictionary_item_key))
            }
            DictionaryIdentifier::EntityNamedKey { key, dictionary_name, dictionary_item_key } => {
                let entity = EntityAddr::from_formatted_str(&key).map_err(invalid_dictionary_key)?;
                Ok(DictionaryItem::OfEntity(entity, dictionary_name, dictionary_item_key))
            }
            DictionaryIdentifier::URef { seed_uref, dictionary_item_key } => {
                let seed = URef::from_formatted_str(&seed_uref).map_err(invalid_dictionary_key)?;
                Ok(DictionaryItem::OfSeed(seed, dictionary_item_key))
            }
            DictionaryIdentifier::Dictionary(key) => {
                let key = Key::from_formatted_str(&key).map_err(invalid_dictionary_key)?;
                let address = key.as_dictionary().ok_or_else(|| invalid_dictionary_key("not a dictionary key"))?;
                Ok(DictionaryItem::At(*address))
            }
        }
    }
}

fn invalid_dictionary_key(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::QueryKey, format!("the provided dictionary key was invalid: {error}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetDictionaryItemParams {
    state_root_hash: Digest,
    dictionary_identifier: DictionaryIdentifier,
}

pub(super) async fn get_dictionary_item(node: &Node<'_>, params: GetDictionaryItemParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetDictionaryItemResult {
        dictionary_key: String,
        stored_value: StoredValue,
        merkle_proof: String,
    }

    let at = GlobalStateIdentifier::StateRootHash(params.state_root_hash);
    let request = Request::dictionary_item(Some(at), &params.dictionary_identifier.item()?);
    let found: Option<FoundDictionaryItem> = node.value("dictionary item", request).await?;
    let FoundDictionaryItem { key, item } = found.ok_or_else(Failure::no_such_value)?;
    let result = GetDictionaryItemResult {
        dictionary_key: key.to_formatted_string(),
        stored_value: item.value,
        merkle_proof: proof_text(&item.proofs)?,
    };
    Ok(Reply::new(&result)?.lasting(true))
}

// Unknown members are ignored, as by the reference.
#[derive(Deserialize)]
pub(super) struct GetTrieParams {
    trie_key: Digest,
}

pub(super) async fn get_trie(node: &Node<'_>, params: GetTrieParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetTrieResult {
        maybe_trie_bytes: Option<Bytes>,
    }

    let Trie { bytes } = node.required("trie", Request::trie(&params.trie_key)).await?;
    Reply::new(&GetTrieResult { maybe_trie_bytes: bytes })
}
