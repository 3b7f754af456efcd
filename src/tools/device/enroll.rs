//! `everbeat device enroll`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use secrecy::{ExposeSecret, SecretString};

use crate::client::{Context, DeviceClient, Enrollment, StateDir};
use crate::domain::name::Name;

#[derive(clap::Args, Debug)]
pub struct EnrollArgs {
    /// Base URL of the device listener; several for failover
    #[arg(long, required = true, value_name = "URL")]
    url: Vec<String>,
    /// The device's name, unique in its fleet
    #[arg(long)]
    name: Name,
    /// Where the identity is kept
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Read the enrollment token from this file; otherwise it is taken from EVERBEAT_ENROLLMENT_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Trust this CA bundle; otherwise it is fetched, and checked against the enrollment token
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Tag the device; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

pub(super) async fn run(args: EnrollArgs, token: Option<SecretString>, context: Context) -> anyhow::Result<ExitCode> {
    let token = super::secret(args.token_file.as_deref(), token, "EVERBEAT_ENROLLMENT_TOKEN")?;
    let ca_pem = args.cacert.as_ref().map(super::ca_bundle).transpose()?;
    let token = token.expose_secret().parse()?;
    let asked = Enrollment { urls: args.url, name: args.name, token, ca_pem, tags: args.tags };
    let client = DeviceClient::enroll(StateDir::open(args.state)?, &asked, context).await?;
    let device = client.device();
    writeln!(std::io::stdout(), "{} ({}) in fleet {}", device.name, device.id, device.fleet)?;
    Ok(ExitCode::SUCCESS)
}
