# The warehouse in a Prefect Cloud workspace (or a server of one's own): work pool, deployments, schedules, automation,
# and the block that its secrets are kept in. The deployments are read from ../prefect.yaml, as `dwh deploy` reads them;
# an entry that mentions {source} becomes a deployment for each of var.sources. The key comes from PREFECT_API_KEY.
terraform {
  required_version = ">= 1.10"
  # State in the lake's bucket: terraform init -backend-config=bucket=LAKE -backend-config=key=dwh/terraform.tfstate
  # -backend-config=region=REGION
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
  required_providers {
    prefect = {
      source  = "prefecthq/prefect"
      version = "~> 2.0"
    }
  }
}

provider "prefect" {
  account_id   = var.account_id
  workspace_id = var.workspace_id
}

locals {
  templates = yamldecode(file("${path.module}/../prefect.yaml")).deployments
  resources = yamldecode(file("${path.module}/../resources.yaml"))

  # Entries of their own take precedence over the template of a source.
  deployments = merge(concat(
    [
      for template in local.templates : {
        for source in var.sources :
        replace(template.name, "{source}", source) => jsondecode(replace(jsonencode(template), "{source}", source))
      } if strcontains(template.name, "{source}")
    ],
    [for template in local.templates : { (template.name) = template } if !strcontains(template.name, "{source}")]
  )...)

  schedules = merge([
    for deployment in values(local.deployments) : {
      for number, schedule in try(deployment.schedules, []) :
      "${deployment.name}-${number}" => merge(schedule, { deployment = deployment.name })
    }
  ]...)

  environment = merge(
    { for source in var.sources : "DWH_${upper(source)}_URL_FILE" => "/run/secrets/dwh/${source}_url" },
    var.sources_folder == null ? {} : { DWH_SOURCES = var.sources_folder },
    {
      DWH_WAREHOUSE_URL_FILE = "/run/secrets/dwh/warehouse_url"
      DWH_SMTP_URL_FILE      = "/run/secrets/dwh/smtp_url"
      DWH_ALERT_TO           = var.alert_to
      DWH_LAKE               = var.lake
    }
  )
}

resource "prefect_work_pool" "dwh" {
  name              = var.work_pool
  type              = "kubernetes"
  description       = local.resources.work_pool.description
  concurrency_limit = local.resources.work_pool.concurrency_limit
  paused            = false
}

resource "prefect_flow" "this" {
  for_each = local.deployments

  name = each.key
  tags = each.value.tags
}

resource "prefect_deployment" "this" {
  for_each = local.deployments

  name              = each.key
  flow_id           = prefect_flow.this[each.key].id
  description       = each.value.description
  entrypoint        = each.value.entrypoint
  tags              = each.value.tags
  parameters        = jsonencode(each.value.parameters)
  work_pool_name    = prefect_work_pool.dwh.name
  concurrency_limit = each.value.concurrency_limit.limit
  concurrency_options = {
    collision_strategy = each.value.concurrency_limit.collision_strategy
  }
  job_variables = jsonencode({
    image = var.image
    env   = merge(local.resources.environment, local.environment)
  })
}

resource "prefect_deployment_schedule" "this" {
  for_each = local.schedules

  deployment_id = prefect_deployment.this[each.value.deployment].id
  cron          = each.value.cron
  timezone      = each.value.timezone
  active        = true
}

resource "prefect_automation" "dead_runs" {
  name        = local.resources.automations[0].name
  description = local.resources.automations[0].description
  enabled     = true

  trigger = {
    event = {
      posture = local.resources.automations[0].trigger.posture
      match   = jsonencode(local.resources.automations[0].trigger.match)
      match_related = jsonencode(
        local.resources.automations[0].trigger.match_related
      )
      after     = local.resources.automations[0].trigger.after
      expect    = local.resources.automations[0].trigger.expect
      for_each  = local.resources.automations[0].trigger.for_each
      threshold = local.resources.automations[0].trigger.threshold
      within    = local.resources.automations[0].trigger.within
    }
  }
  actions = [
    {
      type    = local.resources.automations[0].actions[0].type
      state   = local.resources.automations[0].actions[0].state
      message = local.resources.automations[0].actions[0].message
    }
  ]
}

# Where mail is not enough: an automation may send to it (its URL is set in the UI, or by TF_VAR_slack_webhook_url).
resource "prefect_block" "slack" {
  count = var.slack_webhook_url == null ? 0 : 1

  name      = "dwh-alerts"
  type_slug = "slack-webhook"
  data      = jsonencode({ url = var.slack_webhook_url })
}
