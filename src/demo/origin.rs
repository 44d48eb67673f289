//! A service that wants a key: a real TLS server on the loopback, in a process
//! of its own, which writes down what it was sent.

use std::convert::Infallible;
use std::fs;
use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::error::{Context, Result};
use crate::sys;

/// The running service; ended when this value goes.
pub struct Origin {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The certificate that it shows, as a PEM file.
    pub certificate: PathBuf,
    received: PathBuf,
    pid: Pid,
}

impl Origin {
    /// Starts it in `place`. The caller must have one thread.
    pub fn start(place: &Path) -> Result<Self> {
        let step = || "start the demonstration's service".to_owned();
        let listener = StdListener::bind("127.0.0.1:0").step(step)?;
        let port = listener.local_addr().step(step)?.port();
        let key = KeyPair::generate().step(step)?;
        let certificate =
            CertificateParams::new(vec!["localhost".to_owned()]).and_then(|it| it.self_signed(&key)).step(step)?;
        let pem = place.join("service.pem");
        fs::write(&pem, certificate.pem()).step(|| format!("write {}", pem.display()))?;
        let received = place.join("received");
        let private = PrivateKeyDer::try_from(key.serialize_der()).step(step)?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .step(step)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .step(step)?;
        match sys::fork().step(step)? {
            ForkResult::Parent { child } => Ok(Self { port, certificate: pem, received, pid: child }),
            ForkResult::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                let _ = serve(listener, config, &received);
                process::exit(1)
            }
        }
    }

    /// What the service was sent as authorization last.
    pub fn received(&self) -> String {
        fs::read_to_string(&self.received).unwrap_or_else(|_| "nothing".to_owned())
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

fn serve(listener: StdListener, config: ServerConfig, received: &Path) -> Result<()> {
    let step = || "serve the demonstration".to_owned();
    let runtime = crate::event_loop::start().step(step)?;
    runtime.block_on(async {
        listener.set_nonblocking(true).step(step)?;
        let listener = TcpListener::from_std(listener).step(step)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.step(step)?;
            let (acceptor, received) = (acceptor.clone(), received.to_owned());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let service = service_fn(|request| answer(request, received.clone()));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    })
}

/// Repeats the key, as careless services do.
async fn answer(request: Request<Incoming>, received: PathBuf) -> Result<Response<Full<Bytes>>, Infallible> {
    let key =
        request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("nothing").to_owned();
    let _ = fs::write(received, &key);
    Ok(Response::new(Full::new(Bytes::from(format!("welcome, {key}\n")))))
}
