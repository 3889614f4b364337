//! A tower layer that counts requests under way, so that the broker ends after them and knows
//! when it is idle.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use crate::broker::Broker;

/// The layer.
#[derive(Clone)]
pub(crate) struct Track(pub(crate) Arc<Broker>);

/// The service that it makes of another.
#[derive(Clone)]
pub(crate) struct Tracked<S> {
    inner: S,
    broker: Arc<Broker>,
}

impl<S> Layer<S> for Track {
    type Service = Tracked<S>;

    fn layer(&self, inner: S) -> Tracked<S> {
        Tracked {
            inner,
            broker: Arc::clone(&self.0),
        }
    }
}

impl<S, R> Service<R> for Tracked<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let under_way = UnderWay::new(&self.broker);
        let response = self.inner.call(request);
        Box::pin(async move {
            let _under_way = under_way;
            response.await
        })
    }
}

/// Counts while it lives; a caller that goes away in the middle drops it too.
struct UnderWay(Arc<Broker>);

impl UnderWay {
    fn new(broker: &Arc<Broker>) -> Self {
        broker.touch();
        broker.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(broker))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
