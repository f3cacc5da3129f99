//! What every layer with an observer is besides its decision: a handle that can be cloned, and a service
//! around another that goes with it.

/// Writes `Clone` and [`Layer`](tower_layer::Layer) for a layer whose state is in one field, and the
/// service it makes with its `Clone` and `Debug`. What is left to write is `Service::call`.
///
/// Derived, the first would ask for observers that can be cloned.
macro_rules! layered {
    ($(#[$docs:meta])* $layer:ident { $state:ident } => $service:ident) => {
        impl<O> Clone for $layer<O> {
            fn clone(&self) -> Self {
                Self { $state: self.$state.clone() }
            }
        }

        impl<S, O> tower_layer::Layer<S> for $layer<O> {
            type Service = $service<S, O>;

            fn layer(&self, inner: S) -> Self::Service {
                $service { inner, layer: self.clone() }
            }
        }

        $(#[$docs])*
        pub struct $service<S, O = ()> {
            inner: S,
            layer: $layer<O>,
        }

        impl<S: Clone, O> Clone for $service<S, O> {
            fn clone(&self) -> Self {
                Self { inner: self.inner.clone(), layer: self.layer.clone() }
            }
        }

        impl<S: std::fmt::Debug, O> std::fmt::Debug for $service<S, O> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($service)).field("inner", &self.inner).field("layer", &self.layer).finish()
            }
        }
    };
}
pub(crate) use layered;
