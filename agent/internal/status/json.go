package status

import (
	"encoding/json"
	"io"
)

// WriteJSON writes the status for programs: one object, indented, with what NeedsOwner
// has of it as needs_owner in front.
func (s *Status) WriteJSON(w io.Writer) error {
	needs := NeedsOwner(s)
	if needs == nil {
		needs = []string{}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		NeedsOwner []string `json:"needs_owner"`
		*Status
	}{needs, s})
}
