//! The container engine, through its API on the unix socket: what the drill needs of it, in sentences and not in the
//! API's terms. Containers are found by the labels that compose gives them, never by their names.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ExecConfig, HealthStatusEnum, HostConfig,
};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptions, WaitContainerOptions,
};
use futures_util::{Stream, StreamExt, TryStreamExt};

use super::archive;
use crate::domain::time::parse_rfc3339;

/// Longer than any service drains.
const END_LIMIT: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";
/// On containers that the drill starts beside others, with the project as its value.
const BESIDE_LABEL: &str = "io.everbeat.drill.beside";
/// A command that takes longer is stuck.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// The engine on this host. Clones share the connection's settings.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
}

/// One container of a compose project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub service: String,
}

/// What the engine knows about a container now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub running: bool,
    /// By the freezer. A process that was stopped by SIGSTOP counts as running.
    pub frozen: bool,
    /// `None`: the image has no health check.
    pub healthy: Option<bool>,
    /// Ports on the host's loopback, by the container's port.
    pub published: HashMap<u16, u16>,
    pub environment: HashMap<String, String>,
    /// When its process was started, seconds since 1970; 0: never.
    pub started_unix_s: i32,
}

/// What a command left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub status: i64,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded.
    pub fn success(self, what: &str) -> Result<String, String> {
        if self.status == 0 {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() { self.stdout.trim() } else { self.stderr.trim() };
        Err(format!("{what} ended with status {}: {said}", self.status))
    }
}

impl Engine {
    /// Connects to the socket that `DOCKER_HOST` names, or the usual one, in the API's version that both know.
    pub async fn connect() -> Result<Self, String> {
        let say = |e: bollard::errors::Error| format!("no container engine answers: {e}");
        let docker = Docker::connect_with_unix_defaults().map_err(say)?;
        let docker = docker.negotiate_version().await.map_err(say)?;
        Ok(Self { docker })
    }

    /// The containers of a project, running or not, without those that `compose run` made.
    pub async fn containers(&self, project: &str) -> Result<Vec<Container>, String> {
        let labels = vec![format!("{PROJECT_LABEL}={project}"), "com.docker.compose.oneoff=False".to_owned()];
        let found = self.labelled(labels).await?;
        let mut found: Vec<Container> = found
            .into_iter()
            .filter_map(|(id, mut labels)| Some(Container { id, service: labels.remove(SERVICE_LABEL)? }))
            .collect();
        found.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(found)
    }

    /// Removes side containers that a drill of this project left when it died.
    pub async fn remove_besides(&self, project: &str) -> Result<(), String> {
        for (id, _) in self.labelled(vec![format!("{BESIDE_LABEL}={project}")]).await? {
            self.remove(&id).await?;
        }
        Ok(())
    }

    async fn labelled(&self, labels: Vec<String>) -> Result<Vec<(String, HashMap<String, String>)>, String> {
        let filters = HashMap::from([("label", labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found =
            self.docker.list_containers(Some(options)).await.map_err(|e| format!("cannot list containers: {e}"))?;
        Ok(found.into_iter().filter_map(|one| Some((one.id?, one.labels.unwrap_or_default()))).collect())
    }

    pub async fn state(&self, id: &str) -> Result<State, String> {
        let found = self.docker.inspect_container(id, None::<InspectContainerOptions>).await;
        Ok(state_of(found.map_err(|e| format!("cannot inspect a container: {e}"))?))
    }

    /// Sends a signal to the first process, from outside: also SIGKILL and SIGSTOP reach it.
    pub async fn signal(&self, id: &str, signal: &str) -> Result<(), String> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        self.docker.kill_container(id, Some(options)).await.map_err(|e| format!("cannot send {signal}: {e}"))
    }

    /// A container that runs already stays as it is.
    pub async fn start(&self, id: &str) -> Result<(), String> {
        bearing(self.docker.start_container(id, None::<StartContainerOptions>).await, "start")
    }

    /// Starts what was told to end, once it has: started while it still drains, it would end afterwards and stay so.
    /// `since`: when that process had been started. Another one means that the engine has started it again by itself.
    pub async fn start_again(&self, id: &str, since: Option<i32>) -> Result<(), String> {
        let ended = async {
            loop {
                let state = self.state(id).await?;
                if !state.running || since.is_some_and(|since| since != state.started_unix_s) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let ended: Result<Result<(), String>, _> = tokio::time::timeout(END_LIMIT, ended).await;
        ended.map_err(|_| format!("it still runs {} s after it was told to end", END_LIMIT.as_secs()))??;
        self.start(id).await
    }

    /// Its own signal to stop, and SIGKILL after the grace that its service declares.
    pub async fn stop(&self, id: &str) -> Result<(), String> {
        bearing(self.docker.stop_container(id, None::<StopContainerOptions>).await, "stop")
    }

    pub async fn freeze(&self, id: &str) -> Result<(), String> {
        self.docker.pause_container(id).await.map_err(|e| format!("cannot freeze: {e}"))
    }

    /// A container that is not frozen stays as it is.
    pub async fn thaw(&self, id: &str) -> Result<(), String> {
        if !self.state(id).await?.frozen {
            return Ok(());
        }
        self.docker.unpause_container(id).await.map_err(|e| format!("cannot thaw: {e}"))
    }

    /// Runs a shell script inside a container, as the user that the container runs as.
    pub async fn shell(&self, id: &str, script: &str, arguments: &[&str]) -> Result<Output, String> {
        let command = ["sh", "-c", script, "everbeat-drill"].into_iter().chain(arguments.iter().copied());
        self.exec(id, command.map(str::to_owned).collect()).await
    }

    pub async fn exec(&self, id: &str, command: Vec<String>) -> Result<Output, String> {
        let config = ExecConfig {
            cmd: Some(command),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let work = async {
            let exec = self.docker.create_exec(id, config).await?;
            let (mut stdout, mut stderr) = (String::new(), String::new());
            if let bollard::exec::StartExecResults::Attached { output, .. } =
                self.docker.start_exec(&exec.id, None).await?
            {
                (stdout, stderr) = collect(output).await?;
            }
            let status = self.docker.inspect_exec(&exec.id).await?.exit_code.unwrap_or(-1);
            Ok::<_, bollard::errors::Error>(Output { status, stdout, stderr })
        };
        limited(work, "a command in a container").await
    }

    /// Starts a command that goes on by itself.
    pub async fn exec_detached(&self, id: &str, command: Vec<String>) -> Result<(), String> {
        let config = ExecConfig { cmd: Some(command), ..Default::default() };
        let work = async {
            let exec = self.docker.create_exec(id, config).await?;
            let detached = bollard::exec::StartExecOptions { detach: true, ..Default::default() };
            self.docker.start_exec(&exec.id, Some(detached)).await.map(drop)
        };
        limited(work, "a command in a container").await
    }

    /// Runs a shell script as root in a short-lived container that shares the network of `id` and may change it.
    pub async fn beside(&self, id: &str, project: &str, image: &str, script: &str) -> Result<Output, String> {
        let host = HostConfig {
            network_mode: Some(format!("container:{id}")),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()]),
            ..Default::default()
        };
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            user: Some("0:0".to_owned()),
            entrypoint: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
            cmd: Some(Vec::new()),
            labels: Some(HashMap::from([(BESIDE_LABEL.to_owned(), project.to_owned())])),
            host_config: Some(host),
            ..Default::default()
        };
        let made = self.docker.create_container(None::<CreateContainerOptions>, body).await;
        let made = made.map_err(|e| format!("cannot make a container of {image}: {e}"))?.id;
        let output = limited(self.run(&made), "a side container").await;
        self.remove(&made).await?;
        output
    }

    async fn run(&self, id: &str) -> Result<Output, bollard::errors::Error> {
        self.docker.start_container(id, None::<StartContainerOptions>).await?;
        let ended = self.docker.wait_container(id, None::<WaitContainerOptions>).try_next().await;
        let status = match ended {
            Ok(ended) => ended.map_or(-1, |ended| ended.status_code),
            Err(bollard::errors::Error::DockerContainerWaitError { code, .. }) => code,
            Err(error) => return Err(error),
        };
        let (stdout, stderr) = self.log(id, 0).await?;
        Ok(Output { status, stdout, stderr })
    }

    async fn remove(&self, id: &str) -> Result<(), String> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(format!("cannot remove a side container: {error}")),
        }
    }

    /// What a container has written since then, over all its starts: standard output and standard error.
    pub async fn log(&self, id: &str, since_unix_s: i32) -> Result<(String, String), bollard::errors::Error> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).since(since_unix_s).build();
        collect(self.docker.logs(id, Some(options))).await
    }

    /// One file of a container, which need not run.
    pub async fn file(&self, id: &str, path: &str) -> Result<Vec<u8>, String> {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let chunks =
            self.docker.download_from_container(id, Some(options)).try_fold(Vec::new(), |mut all, chunk| async move {
                all.extend_from_slice(&chunk);
                Ok(all)
            });
        let packed = chunks.await.map_err(|e| format!("cannot read {path} in a container: {e}"))?;
        archive::file(&packed).map(<[u8]>::to_vec).ok_or_else(|| format!("{path} in a container is no file"))
    }
}

fn state_of(found: ContainerInspectResponse) -> State {
    let state = found.state.unwrap_or_default();
    let health = state.health.and_then(|health| health.status);
    let bindings = found.host_config.and_then(|host| host.port_bindings).unwrap_or_default();
    let published = bindings.into_iter().filter_map(|(inside, outside)| {
        let inside = inside.strip_suffix("/tcp")?.parse().ok()?;
        let outside = outside?.into_iter().find(|one| one.host_ip.as_deref() == Some("127.0.0.1"))?;
        Some((inside, outside.host_port?.parse().ok()?))
    });
    let environment = found.config.and_then(|config| config.env).unwrap_or_default();
    let environment = environment.iter().filter_map(|one| one.split_once('='));
    let started = state.started_at.as_deref().and_then(parse_rfc3339).map_or(0, time::OffsetDateTime::unix_timestamp);
    State {
        started_unix_s: i32::try_from(started).unwrap_or(0).max(0),
        running: state.running.unwrap_or(false),
        frozen: state.status == Some(ContainerStateStatusEnum::PAUSED),
        healthy: match health {
            None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) => None,
            Some(health) => Some(health == HealthStatusEnum::HEALTHY),
        },
        published: published.collect(),
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

async fn collect(
    output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>>,
) -> Result<(String, String), bollard::errors::Error> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut output = std::pin::pin!(output);
    while let Some(part) = output.next().await {
        match part? {
            LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => stdout.extend_from_slice(&message),
            LogOutput::StdIn { .. } => {}
        }
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((text(stdout), text(stderr)))
}

async fn limited<T>(work: impl Future<Output = Result<T, bollard::errors::Error>>, what: &str) -> Result<T, String> {
    match tokio::time::timeout(COMMAND_LIMIT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what} has not ended in {COMMAND_LIMIT:?}")),
    }
}

/// 304: it was as it should be already.
fn bearing(done: Result<(), bollard::errors::Error>, what: &str) -> Result<(), String> {
    match done {
        Err(error) if status(&error) != Some(304) => Err(format!("cannot {what}: {error}")),
        _ => Ok(()),
    }
}

fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_from_what_the_engine_says() {
        let found = serde_json::json!({
            "State": {"Status": "paused", "Running": true, "StartedAt": "1970-01-01T00:01:00.987654321Z", "Paused": true, "Health": {"Status": "unhealthy"}},
            "Config": {"Env": ["EVERBEAT__REPLICA__ADDR=everbeat1:8443", "PATH"]},
            "HostConfig": {"PortBindings": {
                "5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": "15431"}],
                "8008/tcp": [{"HostIp": "", "HostPort": "18008"}],
                "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
                "9100/tcp": null,
            }},
        });
        let state = state_of(serde_json::from_value(found).unwrap());
        assert!(state.running && state.frozen);
        assert_eq!(state.started_unix_s, 60);
        assert_eq!(state.healthy, Some(false));
        assert_eq!(state.published, HashMap::from([(5432, 15431)]), "only what is published on the loopback");
        assert_eq!(state.environment["EVERBEAT__REPLICA__ADDR"], "everbeat1:8443");
        let bare = state_of(serde_json::from_value(serde_json::json!({"State": {"Status": "exited"}})).unwrap());
        assert!(!bare.running && !bare.frozen && bare.healthy.is_none() && bare.published.is_empty());
    }

    #[test]
    fn a_failed_command_says_what_it_said() {
        let output = |status, stdout: &str, stderr: &str| Output {
            status,
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(output(0, "yes\n", "noise").success("asking").unwrap(), "yes\n");
        assert_eq!(
            output(2, "out\n", "no such file\n").success("asking").unwrap_err(),
            "asking ended with status 2: no such file"
        );
        assert_eq!(output(1, "out\n", "").success("asking").unwrap_err(), "asking ended with status 1: out");
    }
}
