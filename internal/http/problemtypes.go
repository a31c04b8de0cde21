package http

import (
	stdhttp "net/http"

	"github.com/skald-saga/skald/internal/http/api"
)

// problemType is everything about a problem that does not depend on the
// request.
type problemType struct {
	status      int
	retryable   bool // the same request may succeed later
	title       string
	description string // what it means and what to do
}

// problemTypes lists every problem that the API reports. Codes are never
// renamed.
var problemTypes = map[api.ProblemCode]problemType{
	api.ProblemCodeBadRequest: {
		status: stdhttp.StatusBadRequest, title: "The request cannot be understood",
		description: "A part of the request has the wrong form. Each entry of errors points at one such part and says what is expected there. Nothing was done.",
	},
	api.ProblemCodeMalformedJson: {
		status: stdhttp.StatusBadRequest, title: "The body is not usable JSON",
		description: "The body must be one JSON value in UTF-8 with nothing after it. Members of an object must have different names, and strings must not hold NUL characters or halves of surrogate pairs. Nothing was done.",
	},
	api.ProblemCodeUnknownParameter: {
		status: stdhttp.StatusBadRequest, title: "A query parameter is not known",
		description: "The operation does not have this query parameter. It is refused so that a misspelt filter does not select everything. Nothing was done.",
	},
	api.ProblemCodeCursorMismatch: {
		status: stdhttp.StatusBadRequest, title: "The cursor belongs to another list",
		description: "A cursor continues the list that it came from: the same path with the same filter. Begin again without a cursor, or repeat the filter.",
	},
	api.ProblemCodeNotFound: {
		status: stdhttp.StatusNotFound, title: "There is no such thing",
		description: "Nothing is at this path. Reads see your own writes, so what was accepted is found at once: check the id. A saga that was started at /v1/sagas has no order.",
	},
	api.ProblemCodeMethodNotAllowed: {
		status: stdhttp.StatusMethodNotAllowed, title: "The path does not have this method",
		description: "The Allow header lists the methods that it has.",
	},
	api.ProblemCodeSagaAlreadyTerminal: {
		status: stdhttp.StatusConflict, title: "The saga has ended",
		description: "What was asked for is only possible while the saga is under way. Nothing was changed; allowed lists what is possible now.",
	},
	api.ProblemCodePastPivot: {
		status: stdhttp.StatusConflict, title: "The saga has passed its point of no return",
		description: "Its pivot has succeeded, so it can only go forward. Nothing was changed; allowed lists what is possible now.",
	},
	api.ProblemCodeBatchEnded: {
		status: stdhttp.StatusConflict, title: "The batch operation has ended",
		description: "All of its sagas have had their turn, so there is nothing to stop. Nothing was changed.",
	},
	api.ProblemCodeFilterEmpty: {
		status: stdhttp.StatusUnprocessableEntity, title: "The filter selects every saga",
		description: "What is asked for would be done to all sagas there are. Give at least one condition, or the ids of the sagas that are meant. Nothing was done.",
	},
	api.ProblemCodeStillDead: {
		status: stdhttp.StatusConflict, title: "No saga can take the reply",
		description: "The reply cannot be read, or there is no such saga; detail says what is the matter. Nothing was changed, and a dead letter stays where it is.",
	},
	api.ProblemCodePivotStuck: {
		status: stdhttp.StatusConflict, title: "Nobody knows whether the saga has passed its point of no return",
		description: "Its pivot is stuck, so cancelling would change nothing. Find out whether it happened: resolve it as failed to undo the saga, as succeeded to go on, or try it again. Nothing was changed; allowed lists what is possible now.",
	},
	api.ProblemCodeNothingToRetry: {
		status: stdhttp.StatusConflict, title: "Nothing can be tried again now",
		description: "Only what waits for its next attempt, or is stuck, can be tried at once. What is in flight may still be answered; its timeout, not an operator, sends it again. Nothing was changed; allowed lists what is possible now.",
	},
	api.ProblemCodePayloadAlreadySent: {
		status: stdhttp.StatusConflict, title: "The step was sent with another payload",
		description: "All attempts of an effect carry the same payload, because the participant may have acted on the first. A payload can be given only for a step that could not be sent, and only together with its name. Nothing was changed.",
	},
	api.ProblemCodeSagaNotUndone: {
		status: stdhttp.StatusConflict, title: "The saga was neither undone nor abandoned",
		description: "Only a saga that was undone, or abandoned, can be started again: another one would do what this one has done, or may still do. Nothing was changed; allowed lists what is possible now.",
	},
	api.ProblemCodeSagaPaused: {
		status: stdhttp.StatusConflict, title: "The saga is paused",
		description: "A paused saga issues no command. Resume it first. Nothing was changed; allowed lists what is possible now.",
	},
	api.ProblemCodeTimerNeeded: {
		status: stdhttp.StatusConflict, title: "The saga cannot do without the timer",
		description: "Only a deadline can be removed. Without another timer the saga would wait for ever: move it instead, or cancel the saga. Nothing was changed.",
	},
	api.ProblemCodeStepNotStuck: {
		status: stdhttp.StatusConflict, title: "The step is not stuck",
		description: "Only a stuck operation can be resolved: until then its participant may answer. The step may also be stuck in its other phase; stuck_phase of the step says which. Nothing was changed; allowed lists what is possible now.",
	},
	api.ProblemCodeOutcomeNotPossible: {
		status: stdhttp.StatusConflict, title: "The step cannot have ended like that",
		description: "A compensation, and what comes after the pivot, cannot fail for good: try it again, or skip it. A pivot cannot be said to have failed once a step behind it has begun. resolutions of the step lists what is possible. Nothing was changed.",
	},
	api.ProblemCodePreconditionFailed: {
		status: stdhttp.StatusPreconditionFailed, title: "The saga has another version",
		description: "It changed since the version in If-Match was read. Nothing was changed. Read it again and decide anew.",
	},
	api.ProblemCodePayloadTooLarge: {
		status: stdhttp.StatusRequestEntityTooLarge, title: "The body is too large",
		description: "A body may have 64 KiB. Pass a reference to large data instead of the data. Nothing was done.",
	},
	api.ProblemCodeUnsupportedMediaType: {
		status: stdhttp.StatusUnsupportedMediaType, title: "The body has another media type",
		description: "Send JSON in UTF-8, not compressed, with Content-Type: application/json; definitions may also be application/yaml. Nothing was done.",
	},
	api.ProblemCodeInputInvalid: {
		status: stdhttp.StatusUnprocessableEntity, title: "The request says something impossible",
		description: "Its form is right, but what it says cannot be carried out. Each entry of errors points at one part and says what to change. Nothing was done.",
	},
	api.ProblemCodeUnknownDefinition: {
		status: stdhttp.StatusUnprocessableEntity, title: "There is no such definition",
		description: "No definition of this name, or not in this version, is registered. Nothing was done.",
	},
	api.ProblemCodeDefinitionDeprecated: {
		status: stdhttp.StatusUnprocessableEntity, title: "The definition is deprecated",
		description: "No new sagas of it are started; those that have begun go on. GET /v1/definitions/{name} may say why. Nothing was done.",
	},
	api.ProblemCodeDefinitionInvalid: {
		status: stdhttp.StatusUnprocessableEntity, title: "The definition cannot be used",
		description: "Each entry of errors says what is wrong at one place: its pointer and, of YAML, its line. All of them are listed that can be seen before the first ones are mended. docs/definitions.md has the rules, /schemas/definition.json the form. Nothing was stored.",
	},
	api.ProblemCodeIdempotencyKeyReused: {
		status: stdhttp.StatusUnprocessableEntity, title: "The idempotency key was used for another request",
		description: "A key stands for one request. Repeat that request exactly, or send this one with a key of its own. Nothing was done.",
	},
	api.ProblemCodeInternal: {
		status: stdhttp.StatusInternalServerError, title: "The server met something unexpected",
		description: "The server's log holds the cause under request_id. If the request was to start a saga, it may have been started: repeat it with the same Idempotency-Key.",
	},
	api.ProblemCodeOverloaded: {
		status: stdhttp.StatusServiceUnavailable, retryable: true, title: "New sagas are not accepted now",
		description: "They come in faster than they can be written, or too many messages wait to be sent. Sagas that were accepted go on, and can be operated. Nothing was done; try again after Retry-After, and less often.",
	},
	api.ProblemCodeDatabaseUnavailable: {
		status: stdhttp.StatusServiceUnavailable, retryable: true, title: "The database does not answer",
		description: "Nothing that was accepted is lost. Whether this request was carried out is not known: repeat it after Retry-After, with the same Idempotency-Key if it has one.",
	},
	api.ProblemCodeStopping: {
		status: stdhttp.StatusServiceUnavailable, retryable: true, title: "The server is stopping",
		description: "Another server, or this one once it runs again, will do it. Repeat the request after Retry-After, with the same Idempotency-Key if it has one.",
	},
}
