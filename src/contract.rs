//! The contract, generated from `proto/broker.proto`.

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    tonic::include_proto!("mlflow_secrets_auth.broker.v1");
}

pub use generated::*;

/// The contract's descriptors, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/broker.binpb"));

/// The contract's major version, a part of the socket's name.
pub const MAJOR: u32 = 1;

/// The domain of the `google.rpc.ErrorInfo` in the broker's errors.
pub const ERROR_DOMAIN: &str = "mlflow_secrets_auth";

/// The largest message either end accepts, bytes. A caller's settings are a few kilobytes.
pub const MAX_MESSAGE: usize = 1 << 20;
