//! What staff may ask of sagas: which need somebody, and to try those once more.

use axum::{
    Json, Router,
    extract::State as With,
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{Flow, Sagas, parked};
use crate::kernel::{ask::Part, problem::Problem};

/// `GET /internal/sagas` and `POST /internal/sagas/{saga_id}/retry`.
pub fn routes<F: Flow, S: Clone + Send + Sync + 'static>(sagas: Sagas<F>) -> Router<S> {
    Router::new()
        .route("/internal/sagas", get(those_in_need::<F>))
        .route("/internal/sagas/{saga_id}/retry", post(retry::<F>))
        .with_state(sagas)
}

async fn those_in_need<F: Flow>(With(sagas): With<Sagas<F>>) -> Result<Json<Value>, Problem> {
    let sagas = sagas.store().read(parked).await?;
    let shown = sagas.into_iter().map(|saga| {
        json!({"saga_id": saga.saga_id, "unfit": saga.unfit, "cause": saga.cause, "changed_at": saga.changed_at})
    });
    Ok(Json(json!({"need_somebody": shown.collect::<Vec<_>>()})))
}

async fn retry<F: Flow>(With(sagas): With<Sagas<F>>, Part(saga_id): Part) -> Result<StatusCode, Problem> {
    if sagas.retry(&saga_id).await? {
        return Ok(StatusCode::ACCEPTED);
    }
    let detail = "there is no such saga that needs somebody";
    Err(Problem::new(StatusCode::CONFLICT, "nothing_to_retry", detail))
}
