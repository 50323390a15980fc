package privsep

// Of privseptest: see inprocess_test.go.
var (
	InProcess  func(map[string]Body) Starter
	PipeBuffer int
)
