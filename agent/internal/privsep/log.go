package privsep

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/rs/zerolog"
)

// Bounds of what a role may log. Events beyond the rate are counted and left out.
const (
	logBurst  = 200
	logRate   = 20 // events a second
	maxFields = 40
	maxKey    = 40 // bytes of a field's name, see keyForm
	maxText   = 1 << 10
)

var keyForm = regexp.MustCompile(`^[\w.-]{1,40}$`)

// roleField is the field of a log event that names its role.
const roleField = "role"

// logEvent logs an event of a role: one JSON object as zerolog writes it, with no other in it. Anything else is an error.
// Characters that could forge or hide a line are spelled out. Main adds the time and the role's name,
// and logs the levels that would end a process as errors.
func logEvent(log zerolog.Logger, role string, payload []byte) error {
	if !utf8.Valid(payload) {
		return errors.New("not UTF-8")
	}
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the object")
	}
	if len(fields) > maxFields {
		return fmt.Errorf("%d fields, at most %d are taken", len(fields), maxFields)
	}
	level := zerolog.InfoLevel
	if text, ok := fields[zerolog.LevelFieldName].(string); ok && text != "" {
		var err error
		if level, err = zerolog.ParseLevel(text); err != nil {
			return err
		}
	}
	message, _ := fields[zerolog.MessageFieldName].(string)
	delete(fields, zerolog.LevelFieldName)
	delete(fields, zerolog.MessageFieldName)
	event := log.WithLevel(min(level, zerolog.ErrorLevel)).Str(roleField, role)
	reserved := []string{zerolog.TimestampFieldName, roleField, zerolog.CallerFieldName}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		value := fields[key]
		switch v := value.(type) {
		case string:
			value = Clean(v, maxText)
		case []any, map[string]any:
			return fmt.Errorf("field %q is nested", Clean(key, maxKey))
		}
		if !keyForm.MatchString(key) || slices.Contains(reserved, key) {
			return fmt.Errorf("field %q", Clean(key, maxKey))
		}
		event.Interface(key, value)
	}
	event.Msg(Clean(message, maxText))
	return nil
}
