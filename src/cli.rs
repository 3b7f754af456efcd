//! The command line: one match, one line per command.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::http;
use crate::observe::log::{self, Format};
use crate::observe::net::Port;
use crate::tools::{admin_cli, bench, dev, device, drill};

mod keys;
mod operate;
mod operator;
mod serve;

/// A highly available IoT device service on PostgreSQL.
#[derive(Parser)]
#[command(name = "everbeat", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where a command's settings come from.
#[derive(clap::Args, Clone)]
struct ConfigArgs {
    /// A settings file (TOML) over the defaults; may be repeated. The environment (EVERBEAT__SECTION__KEY) wins
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a replica
    Serve {
        #[command(flatten)]
        config: ConfigArgs,
        /// End when the process that started it ends
        #[arg(long, hide = true)]
        die_with_parent: bool,
    },
    /// Bring the database's schema up to this binary
    Migrate(ConfigArgs),
    /// Make PKI and token keys, and publish their public halves in the database
    Init {
        #[command(flatten)]
        config: ConfigArgs,
        /// A name or address that the server certificate is for; may be repeated
        #[arg(long = "server-name", value_name = "NAME", default_values_t = ["localhost".to_owned(), "127.0.0.1".to_owned()])]
        server_names: Vec<String>,
        /// Only check that this directory's keys are the ones that the database publishes
        #[arg(long)]
        join: bool,
    },
    /// Replace the keys that sign tokens, while devices go on talking (docs/keys.md)
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Replace the issuing CA and the server's certificate, while devices go on talking (docs/keys.md)
    #[command(subcommand)]
    Ca(keys::CaCommand),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Operators: who may do what
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Operators' tokens
    #[command(subcommand)]
    Token(operator::TokenCommand),
    /// The whole service on this machine: a database, two replicas and a simulated fleet
    Dev(dev::DevArgs),
    /// Break a deployment on purpose, under load, and prove that it kept its promises
    Drill(drill::DrillArgs),
    /// Send load at a rate that does not depend on the answers, and report what came of it
    Bench(bench::BenchArgs),
    /// Act as a device
    Device(device::DeviceArgs),
    /// Look at the fleet
    Admin(admin_cli::AdminArgs),
    /// Print the description (OpenAPI 3.1) of what devices or operators call
    Openapi {
        #[arg(value_enum)]
        listener: Listener,
    },
    /// Ask a replica whether it is ready; for container engines
    Healthcheck {
        #[arg(long, default_value = "http://127.0.0.1:9100/readyz")]
        url: String,
    },
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Listener {
    Device,
    Admin,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say everything that is wrong with the settings, the keys, and the database that they lead to
    Check(operate::CheckArgs),
    /// Show the settings in force, without passwords
    Print(ConfigArgs),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    // rustls would otherwise have to guess which of two providers a library meant.
    crate::net::install_provider();
    let (clock, random) = (Clock::System, Random::from_os());
    let environment = |name: &str| config::secret_from_env(name).map(Into::into);
    match cli.command {
        Command::Serve { config, die_with_parent } => serve::run(&config.config, die_with_parent),
        Command::Migrate(config) => plain(operate::migrate(&config.config)),
        Command::Init { config, server_names, join } => plain(operate::init(&config.config, server_names, join)),
        Command::Keys(command) => plain(keys::keys(command)),
        Command::Ca(command) => plain(keys::ca(command)),
        Command::Config(ConfigCommand::Check(args)) => plain(operate::config_check(args)),
        Command::Config(ConfigCommand::Print(config)) => operate::config_print(&config.config),
        Command::Operator(command) => plain(operator::operator(command)),
        Command::Token(command) => plain(operator::token(command)),
        Command::Dev(args) => tool("warn", dev::run(args, clock, random)),
        Command::Drill(args) => tool("warn", drill::run(args, clock, random)),
        Command::Bench(args) => tool("error", bench::run(args, clock, random)),
        Command::Device(args) => {
            tool("warn,everbeat=info", device::run(args, environment("EVERBEAT_ENROLLMENT_TOKEN"), clock, random))
        }
        Command::Admin(args) => tool("warn", admin_cli::run(args, environment("EVERBEAT_TOKEN"), clock, random)),
        Command::Openapi { listener } => openapi(listener),
        Command::Healthcheck { url } => plain(operate::healthcheck(url)),
    }
}

fn openapi(listener: Listener) -> ExitCode {
    use std::io::Write;
    let port = match listener {
        Listener::Device => Port::Device,
        Listener::Admin => Port::Admin,
    };
    match std::io::stdout().write_all(http::openapi::text(port).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

/// A command of an operator: a log for people, one error sentence, exit status 1.
fn plain(work: impl Future<Output = Result<(), String>>) -> ExitCode {
    tool("warn", async { work.await.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::msg) })
}

fn tool(filter: &str, work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let _ = log::install(Format::Human, filter, false);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    runtime.block_on(work).unwrap_or_else(|error| failed(&format!("{error:#}")))
}

fn failed(sentence: &str) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "everbeat: {sentence}");
    ExitCode::FAILURE
}
