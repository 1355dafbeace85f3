//! Cedar's evaluator, driven directly.
//!
//! The public authorizer builds every policy's condition anew for every question and copies every entity; half of a
//! decision's time went there. This module keeps both ready. It is the only one that touches `cedar-policy-core`, and
//! the property tests hold it against the public authorizer.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cedar_policy::{Entity, EntityUid, Policy, Request, RestrictedExpression};
use cedar_policy_core::{
    ast,
    entities::{Entities, NoEntitiesSchema, TCComputation},
    evaluator::Evaluator,
    extensions::Extensions,
};

/// An entity with everything above it, ready to be asked about; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub uid: EntityUid,
    pub above: Arc<[EntityUid]>,
    entity: Arc<ast::Entity>,
}

impl Known {
    /// `above` is everything above the entity, not only the next level. The attributes are plain values, which always
    /// evaluate.
    pub fn new(
        uid: EntityUid,
        attributes: HashMap<String, RestrictedExpression>,
        above: HashSet<EntityUid>,
    ) -> Self {
        let listed = above.iter().cloned().collect();
        let entity =
            Entity::new(uid.clone(), attributes, above).unwrap_or_else(|_| Entity::with_uid(uid.clone()));
        Self { uid, above: listed, entity: Arc::new(entity.as_ref().clone()) }
    }

    /// The entity in Cedar's public form.
    #[cfg(test)]
    pub fn to_public(&self) -> Entity {
        ast::Entity::clone(&self.entity).into()
    }
}

/// A policy, ready to be evaluated.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub id: Arc<str>,
    /// `None` always holds.
    demand: Option<Arc<ast::Expr>>,
}

impl Condition {
    /// The scope and conditions of a policy without slots; without the scope, if finding the policy `proves_scope`.
    pub fn of(policy: &Policy, proves_scope: bool) -> Self {
        let ast: &ast::Policy = policy.as_ref();
        let demand = if proves_scope { ast.non_scope_constraints().cloned() } else { Some(ast.condition()) };
        Self { id: policy.id().to_string().into(), demand: demand.map(Arc::new) }
    }
}

/// A question in Cedar's terms.
pub(crate) struct Asked {
    pub request: Request,
    entities: Entities,
}

impl Asked {
    /// `None` if two different entities have one name, which none of ours do.
    pub fn new<'k>(request: Request, known: impl IntoIterator<Item = &'k Known>) -> Option<Self> {
        // INVARIANT: each `Known` lists everything above it, so there is nothing left to compute.
        let entities = Entities::new()
            .add_entities(
                known.into_iter().map(|k| k.entity.clone()),
                None::<&NoEntitiesSchema>,
                TCComputation::AssumeAlreadyComputed,
                Extensions::all_available(),
            )
            .ok()?;
        Some(Self { request, entities })
    }

    /// The evaluator for this question.
    pub fn evaluator(&self) -> Evaluator<'_> {
        Evaluator::new(self.request.as_ref().clone(), &self.entities, Extensions::all_available())
    }

    /// The entities in Cedar's public form.
    #[cfg(test)]
    pub fn public_entities(&self) -> cedar_policy::Entities {
        self.entities.clone().into()
    }
}

/// Whether a policy matches, or why it cannot be evaluated.
pub(crate) fn matches(evaluator: &Evaluator<'_>, condition: &Condition) -> Result<bool, String> {
    let Some(demand) = &condition.demand else { return Ok(true) };
    let value = evaluator.interpret(demand, &HashMap::new()).map_err(|error| error.to_string())?;
    match value.value {
        ast::ValueKind::Lit(ast::Literal::Bool(matches)) => Ok(matches),
        _ => Err("its conditions are neither true nor false".to_owned()),
    }
}
