//! A call with everything that makes it arrive: endpoints in turn, back-off, the retry budget.

use std::sync::Arc;

use super::endpoints::Endpoints;
use super::error::{ClientError, Refusal};
use super::retry::{self, Budget, Next};
use super::settings::Context;
use super::transport::Transport;
pub use super::transport::{Answer, Call};

/// Clones share connections, endpoints and budget.
#[derive(Clone)]
pub struct Http {
    context: Context,
    transport: Transport,
    endpoints: Arc<Endpoints>,
    budget: Arc<Budget>,
}

impl Http {
    pub fn new(context: Context, tls: rustls::ClientConfig, endpoints: Arc<Endpoints>) -> Self {
        let budget = Arc::new(Budget::new(&context.settings.retry, context.clock.clone()));
        Self { transport: Transport::new(tls, &context.settings), context, endpoints, budget }
    }

    /// The same client with another TLS configuration: new connections, the same budget.
    #[must_use]
    pub fn with_tls(&self, tls: rustls::ClientConfig, endpoints: Arc<Endpoints>) -> Self {
        Self { transport: Transport::new(tls, &self.context.settings), endpoints, ..self.clone() }
    }

    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Sends the call until it is answered, refused for good, or not worth another attempt; then the last error.
    pub async fn send(&self, call: &Call) -> Result<Answer, ClientError> {
        let settings = &self.context.settings.retry;
        let began = self.context.clock.boottime();
        self.budget.deposit();
        let mut untried = self.endpoints.count() - 1;
        let mut retries = 0;
        loop {
            let (index, endpoint) = self.endpoints.current();
            let error = match self.once(endpoint, call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let (elsewhere, pause) = match retry::next(&error, untried, settings) {
                Next::GiveUp => return Err(error),
                Next::Failover => (true, std::time::Duration::ZERO),
                Next::Wait { at_least, elsewhere } => {
                    (elsewhere, retry::pause(at_least, retries, settings, &self.context.random))
                }
            };
            if elsewhere {
                self.endpoints.move_on(index);
                untried = untried.saturating_sub(1);
            }
            retries += 1;
            let spent = self.context.clock.boottime().since(began) + pause;
            if retries >= settings.attempts_max || spent > settings.patience || !self.budget.withdraw() {
                return Err(error);
            }
            tracing::debug!(%error, path = call.path, ?pause, "trying again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(&self, endpoint: &str, call: &Call) -> Result<Answer, ClientError> {
        let answer = self.transport.exchange(endpoint, call).await?;
        let accepted = (200..300).contains(&answer.status) || (Some(answer.status) == call.also && answer.is_json);
        if accepted {
            return Ok(answer);
        }
        let now = self.context.clock.wall();
        let retry_after = answer.retry_after.as_deref().and_then(|text| retry::retry_after(text, now));
        Err(ClientError::Refused(Box::new(Refusal::read(endpoint, answer.status, retry_after, &answer.body))))
    }
}
