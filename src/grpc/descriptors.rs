//! Descriptors: what an upstream's services and messages are, known at run time only.
//!
//! They come from a descriptor set that protoc or buf made, from `.proto` files that are compiled here, or from the upstream
//! itself by server reflection. Whatever their origin, a [`Schema`] flows out, or an error for the operator. The files that
//! annotations need (`google/api/…`) are bundled, for sets that lack them.

use std::fmt;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use prost_reflect::prost_types::FileDescriptorSet;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

/// The largest descriptor set: far above any real one.
pub(super) const SET_BYTES_MAX: usize = 64 << 20;

/// What `.proto` files may import without having it, by name.
const BUNDLED: [(&str, &str); 5] = [
    ("google/api/http.proto", include_str!("protos/google/api/http.proto")),
    ("google/api/annotations.proto", include_str!("protos/google/api/annotations.proto")),
    ("google/api/httpbody.proto", include_str!("protos/google/api/httpbody.proto")),
    ("google/rpc/status.proto", include_str!("protos/google/rpc/status.proto")),
    (EVENT_SOURCE_FILE, include_str!("protos/gateway/event_source.proto")),
];
const EVENT_SOURCE_FILE: &str = "gateway/event_source.proto";

/// A service's messages and methods.
#[derive(Clone)]
pub struct Schema {
    pool: DescriptorPool,
}

/// Why there is no schema.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// The file of a descriptor set cannot be read.
    #[error("cannot read the descriptor set {}: {source}; `descriptor_set` names a file that `protoc --include_imports --descriptor_set_out` or `buf build` writes", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A set is too large.
    #[error("the descriptor set is larger than {SET_BYTES_MAX} bytes; leave out what is not served")]
    TooLarge,
    /// The bytes are not a whole, consistent descriptor set.
    #[error("the descriptor set is not usable: {reason}; make it with `protoc --include_imports` or `buf build`")]
    Unusable {
        /// What is wrong.
        reason: String,
    },
    /// A `.proto` file does not compile.
    #[error("the .proto files do not compile: {reason}; correct them, or name their root folders in `include_paths`")]
    Uncompilable {
        /// The compiler's answer.
        reason: String,
    },
}

impl Schema {
    /// Of a file with a descriptor set.
    ///
    /// # Errors
    /// [`DescriptorError`].
    pub fn read(path: &Path) -> Result<Schema, DescriptorError> {
        let unreadable = |source| DescriptorError::Unreadable { path: path.to_owned(), source };
        let mut set = Vec::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(SET_BYTES_MAX as u64 + 1).read_to_end(&mut set).map_err(unreadable)?;
        Schema::decode(&set)
    }

    /// Of a descriptor set.
    ///
    /// # Errors
    /// [`DescriptorError::TooLarge`] and [`DescriptorError::Unusable`].
    pub fn decode(set: &[u8]) -> Result<Schema, DescriptorError> {
        if set.len() > SET_BYTES_MAX {
            return Err(DescriptorError::TooLarge);
        }
        // The descriptors' library panics at some sets that no compiler makes.
        let built = catch_unwind(AssertUnwindSafe(|| build(set)));
        let pool = built.unwrap_or_else(|_| Err("it contradicts itself".to_owned()));
        pool.map(|pool| Schema { pool }).map_err(|reason| DescriptorError::Unusable { reason })
    }

    /// Of encoded files, in any order.
    ///
    /// # Errors
    /// As [`Schema::decode`].
    pub(super) fn of_files(files: &[Bytes]) -> Result<Schema, DescriptorError> {
        Schema::decode(&set_of(files))
    }

    /// Of `.proto` files. What they import is looked for in `include_paths`; without any, beside the files.
    ///
    /// # Errors
    /// [`DescriptorError::Uncompilable`].
    pub fn compile(protos: &[PathBuf], include_paths: &[PathBuf]) -> Result<Schema, DescriptorError> {
        let beside = || protos.iter().filter_map(|proto| proto.parent()).map(Path::to_owned);
        let folders: Vec<PathBuf> = if include_paths.is_empty() { beside().collect() } else { include_paths.to_vec() };
        let mut resolver = ChainFileResolver::new();
        for folder in folders {
            let here = folder.as_os_str().is_empty();
            resolver.add(IncludeFileResolver::new(if here { PathBuf::from(".") } else { folder }));
        }
        let set = catch_unwind(AssertUnwindSafe(|| compile(resolver, protos)));
        let set = set.unwrap_or_else(|_| Err("the compiler has failed".to_owned()));
        Schema::decode(&set.map_err(|reason| DescriptorError::Uncompilable { reason })?)
    }

    /// Everything that is described.
    #[must_use]
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The method `package.Service/Method`.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<MethodDescriptor> {
        let (service, method) = name.trim_start_matches('/').split_once('/')?;
        let service = self.pool.get_service_by_name(service)?;
        service.methods().find(|known| known.name() == method)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Schema").field("services", &self.pool.services().len()).finish_non_exhaustive()
    }
}

fn build(set: &[u8]) -> Result<DescriptorPool, String> {
    let files = FileDescriptorSet::decode(set).map_err(|error| error.to_string())?.file;
    // By what a file defines, because not everybody gives these files their usual names.
    let defines = |package: &str, message: &str| {
        let has_message = |file: &prost_reflect::prost_types::FileDescriptorProto| {
            file.message_type.iter().any(|known| known.name() == message)
        };
        files.iter().any(|file| file.package() == package && has_message(file))
    };
    let mut missing = Vec::new();
    for (package, message, names) in [
        ("google.api", "HttpRule", &["google/api/http.proto", "google/api/annotations.proto"][..]),
        ("google.rpc", "Status", &["google/rpc/status.proto"]),
    ] {
        if !defines(package, message) {
            missing.extend(names.iter().map(PathBuf::from));
        }
    }
    let mut pool = DescriptorPool::global();
    if !missing.is_empty() {
        let bundled = compile(ChainFileResolver::new(), &missing)?;
        pool.decode_file_descriptor_set(bundled.as_slice()).map_err(|error| error.to_string())?;
    }
    // Decoded again from the bytes, because a file's typed form has lost the annotations.
    pool.decode_file_descriptor_set(set).map_err(|error| error.to_string())?;
    Ok(pool)
}

/// The encoded descriptor set of `.proto` files, with everything that they import.
pub(super) fn compile(mut resolver: ChainFileResolver, protos: &[PathBuf]) -> Result<Vec<u8>, String> {
    resolver.add(Bundled);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    for proto in protos {
        compiler.open_file(proto).map_err(|error| error.to_string())?;
    }
    Ok(compiler.encode_file_descriptor_set())
}

/// A descriptor set is its files one after the other, each as field 1.
fn set_of(files: &[Bytes]) -> Vec<u8> {
    let mut set = Vec::with_capacity(files.iter().map(|file| file.len() + 8).sum());
    for file in files {
        prost::encoding::bytes::encode(1, file, &mut set);
    }
    set
}

/// Opens the bundled files.
#[derive(Debug)]
struct Bundled;

impl FileResolver for Bundled {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match BUNDLED.iter().find(|(known, _)| *known == name) {
            Some((name, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fuzzing::{encoded, schema};
    use super::*;

    const PINGS: &str = r#"
        syntax = "proto3";
        package test;
        import "google/api/annotations.proto";
        import "gateway/event_source.proto";
        service Pings {
            rpc Ping(Request) returns (stream gateway.EventSource) { option (google.api.http) = { get: "/ping" }; }
        }
        message Request { string topic = 1; }
    "#;

    #[test]
    fn a_compiled_file_and_its_descriptor_set_have_the_same_methods() {
        for schema in [schema(PINGS), Schema::decode(&encoded(PINGS)).unwrap()] {
            let method = schema.method("test.Pings/Ping").unwrap();
            assert!(method.is_server_streaming());
            assert_eq!(method.output().full_name(), "gateway.EventSource");
            let extension = schema.pool().get_extension_by_name("google.api.http").unwrap();
            assert!(method.options().has_extension(&extension));
            assert!(schema.method("test.Pings/Pong").is_none() && schema.method("nonsense").is_none());
        }
    }

    #[test]
    fn a_set_without_the_annotations_and_the_known_types_is_completed() {
        let whole = FileDescriptorSet::decode(encoded(PINGS).as_slice()).unwrap();
        let mut bare = Vec::new();
        for file in &whole.file {
            if !file.name().starts_with("google/") {
                bare.push(Bytes::from(file.encode_to_vec()));
            }
        }
        let schema = Schema::of_files(&bare).unwrap();
        assert!(schema.method("test.Pings/Ping").is_some());
    }

    #[test]
    fn what_is_wrong_is_named_together_with_what_to_do() {
        let missing = Schema::read(Path::new("/nowhere/set.binpb")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/set.binpb") && missing.contains("protoc"), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.proto");
        std::fs::write(&path, "syntax = \"proto3\"; message {").unwrap();
        let error = Schema::compile(&[path], &[]).unwrap_err().to_string();
        assert!(error.contains("do not compile") && error.contains("include_paths"), "{error}");
        assert!(matches!(Schema::decode(b"nonsense"), Err(DescriptorError::Unusable { .. })));
    }
}
