//! Everbeat's binary: log, crypto provider, arguments, dispatch.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    everbeat::cli::run()
}
