//! Compiles the contract without an installed `protoc`.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_file("broker.proto")?;
    let descriptors = compiler.file_descriptor_set();

    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("broker.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        // Messages that carry secrets have no Debug: there is no way to log them by accident.
        .skip_debug([
            ".mlflow_secrets_auth.broker.v1.Setting",
            ".mlflow_secrets_auth.broker.v1.PresentRequest",
            ".mlflow_secrets_auth.broker.v1.PresentResponse",
            ".mlflow_secrets_auth.broker.v1.GetHeadersRequest",
            ".mlflow_secrets_auth.broker.v1.ReportRejectionRequest",
            ".mlflow_secrets_auth.broker.v1.Header",
            ".mlflow_secrets_auth.broker.v1.GetHeadersResponse",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
