package privsep

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
)

// Bounds of what a role may log. Beyond the rate events are counted and left out.
const (
	logBurst  = 200
	logRate   = 20 // events a second
	maxFields = 40
	maxKey    = 40 // bytes of a field's name
	maxText   = 1 << 10
	maxNested = 4
)

// roleField is the field of a log event that says whose it is.
const roleField = "role"

// logged is an event that a role logged, checked and made safe.
type logged struct {
	level   zerolog.Level
	message string
	fields  []field
}

type field struct {
	key   string
	value []byte // JSON
}

// parseEvent reads a log event of a role: one JSON object as zerolog writes it. What is
// not such an object is an error; in texts whatever could forge or hide a line is spelled
// out.
func parseEvent(payload []byte) (logged, error) {
	e := logged{level: zerolog.InfoLevel}
	if !utf8.Valid(payload) {
		return e, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return e, errors.New("not an object")
	}
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return e, err
		}
		key, _ := t.(string)
		if !validKey(key) {
			return e, fmt.Errorf("a field named %q", clean(key, maxKey))
		}
		if seen[key] {
			return e, fmt.Errorf("field %s twice", key)
		}
		seen[key] = true
		if len(seen) > maxFields {
			return e, fmt.Errorf("more than %d fields", maxFields)
		}
		value, err := safeValue(d, 0)
		if err != nil {
			return e, fmt.Errorf("field %s: %w", key, err)
		}
		switch key {
		case zerolog.LevelFieldName:
			if e.level, err = eventLevel(value); err != nil {
				return e, err
			}
		case zerolog.MessageFieldName:
			if json.Unmarshal(value, &e.message) != nil {
				return e, errors.New("a message that is no text")
			}
		case zerolog.TimestampFieldName, roleField, zerolog.CallerFieldName:
			// Main's to say.
			return e, fmt.Errorf("a field named %s", key)
		default:
			e.fields = append(e.fields, field{key, value})
		}
	}
	if _, err := d.Token(); err != nil { // }
		return e, err
	}
	if _, err := d.Token(); err != io.EOF {
		return e, errors.New("something follows the object")
	}
	return e, nil
}

func validKey(key string) bool {
	if key == "" || len(key) > maxKey {
		return false
	}
	for _, c := range []byte(key) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// eventLevel reads a level as zerolog writes it. A role has no say over main's life:
// fatal and panic are errors.
func eventLevel(value []byte) (zerolog.Level, error) {
	switch string(value) {
	case `""`:
		return zerolog.InfoLevel, nil
	case `"trace"`:
		return zerolog.TraceLevel, nil
	case `"debug"`:
		return zerolog.DebugLevel, nil
	case `"info"`:
		return zerolog.InfoLevel, nil
	case `"warn"`:
		return zerolog.WarnLevel, nil
	case `"error"`, `"fatal"`, `"panic"`:
		return zerolog.ErrorLevel, nil
	}
	return zerolog.NoLevel, fmt.Errorf("level %s", clean(string(value), maxKey))
}

// safeValue reads the next value and returns it as JSON in which every text is clean.
func safeValue(d *json.Decoder, depth int) ([]byte, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch v := t.(type) {
	case string:
		return appendText(nil, v), nil
	case json.Number:
		return []byte(v), nil
	case bool:
		if v {
			return []byte("true"), nil
		}
		return []byte("false"), nil
	case nil:
		return []byte("null"), nil
	}
	if depth == maxNested {
		return nil, errors.New("nested too deep")
	}
	open := t.(json.Delim)
	b := []byte{byte(open)}
	for d.More() {
		if len(b) > 1 {
			b = append(b, ',')
		}
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return nil, err
			}
			b = append(appendText(b, t.(string)), ':')
		}
		value, err := safeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		b = append(b, value...)
	}
	if t, err = d.Token(); err != nil {
		return nil, err
	}
	return append(b, byte(t.(json.Delim))), nil
}

// appendText appends a clean text as a JSON string. What is clean needs no escapes but
// those of the quote and the backslash.
func appendText(b []byte, text string) []byte {
	b = append(b, '"')
	for _, c := range []byte(clean(text, maxText)) {
		if c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}

// write logs the event as that of a role.
func (e logged) write(log zerolog.Logger, role string) {
	event := log.WithLevel(e.level)
	if event == nil {
		return
	}
	event.Str(roleField, role)
	for _, f := range e.fields {
		event.RawJSON(f.key, f.value)
	}
	event.Msg(e.message)
}

// bucket lets through so many at once and so many a second.
type bucket struct {
	burst, rate float64
	have        float64
	last        time.Time
}

func newBucket(burst, rate float64) *bucket {
	return &bucket{burst: burst, rate: rate, have: burst, last: time.Now()}
}

// take tells whether one more may pass.
func (b *bucket) take() bool {
	now := time.Now()
	b.have = min(b.burst, b.have+now.Sub(b.last).Seconds()*b.rate)
	b.last = now
	if b.have < 1 {
		return false
	}
	b.have--
	return true
}
